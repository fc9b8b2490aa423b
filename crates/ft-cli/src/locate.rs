//! What MODEL on the command line means: a folder in Hugging Face layout, a GGUF file or a folder with one, an adapter or run
//! folder, a checkpoint of a run, a Hub id, or `embedded:tiny`.

use std::path::{Path, PathBuf};

use ft_peft::adapter::is_adapter;
use ft_quant::Scheme;
use ft_train::checkpoint::Checkpoints;

use crate::failure::{Context, Failure};
use crate::hub::{self, Name, Reach, Wanted};

/// Where the parts of a model lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Folder with `config.json` and the weights, or a GGUF file.
    pub checkpoint: PathBuf,
    /// Folder with `adapter_config.json`, when MODEL named one.
    pub adapter: Option<PathBuf>,
    /// How the run that made the adapter held its base; `None` as it is stored.
    pub quant: Option<Scheme>,
}

impl Located {
    /// The folder of the tokenizer: an adapter may bring its own.
    pub fn tokenizer(&self) -> &Path {
        match &self.adapter {
            Some(adapter) if adapter.join("tokenizer.json").is_file() => adapter,
            _ => &self.checkpoint,
        }
    }

    /// The folder of the generation settings: fine-tuning may have taught the model to stop at another token.
    pub fn settings(&self) -> &Path {
        match &self.adapter {
            Some(adapter) if adapter.join(SETTINGS).is_file() => adapter,
            _ => &self.checkpoint,
        }
    }

    /// The generation settings, where there are any.
    pub fn generation_config(&self) -> Option<PathBuf> {
        Some(self.settings().join(SETTINGS)).filter(|path| path.is_file())
    }
}

const SETTINGS: &str = "generation_config.json";

/// Finds MODEL; `adapter` is what `--adapter` named.
pub fn locate(model: &str, adapter: Option<&Path>) -> Result<Located, Failure> {
    let mut located = find(model, Reach::Network)?;
    if let Some(adapter) = adapter {
        let folder = adapter_folder(adapter)?;
        located.quant = quant_of(&folder);
        if let Some(own) = located.adapter.replace(folder) {
            let why = format!("`{model}` already brings an adapter ({})", own.display());
            return Err(Failure::wrong_use(format!(
                "{why}; name its base model, or leave out --adapter"
            )));
        }
    }
    Ok(located)
}

/// Finds an adapter's base as far as it is on this machine.
pub fn here(adapter: &Path) -> Option<Located> {
    find(&adapter.to_string_lossy(), Reach::Cache).ok()
}

/// The folder that holds a base checkpoint, for `model.path` of a configuration.
pub fn checkpoint(model: &str) -> Result<PathBuf, Failure> {
    base_checkpoint(model, Reach::Network)
}

fn base_checkpoint(model: &str, reach: Reach) -> Result<PathBuf, Failure> {
    let located = find(model, reach)?;
    match located.adapter {
        None => Ok(located.checkpoint),
        Some(adapter) => Err(Failure::new(format!(
            "`{model}` is an adapter, and a base model is needed here; merge it first (`ft merge`), or go on training \
             it with `peft.from = \"{}\"` and `model.path = \"{}\"`",
            adapter.display(),
            located.checkpoint.display()
        ))),
    }
}

fn find(model: &str, reach: Reach) -> Result<Located, Failure> {
    if let Some(name) = model.strip_prefix("embedded:") {
        return Ok(Located {
            checkpoint: crate::embedded::unpacked(name)?,
            adapter: None,
            quant: None,
        });
    }
    let path = Path::new(model);
    if path.is_dir() {
        return folder(path, reach);
    }
    if ft_gguf::is_gguf(path) {
        return Ok(plain(path));
    }
    if path.exists() {
        return Err(Failure::new(format!(
            "`{model}` is a file; MODEL is the folder that holds it, or a GGUF file (.gguf)"
        )));
    }
    match Name::model(model) {
        Some(name) => {
            let missing = format!("there is no folder `{model}`");
            let snapshot = hub::fetch(&name, &Wanted::Model, reach).context(missing)?;
            folder(&snapshot, reach)
        }
        None => Err(Failure::new(format!("no such folder: `{model}`"))),
    }
}

fn folder(path: &Path, reach: Reach) -> Result<Located, Failure> {
    let has = |file: &str| path.join(file).is_file();
    if is_adapter(path) {
        return with_base(path, &base_of_adapter(path)?, reach);
    }
    if has("config.json") {
        return Ok(plain(path));
    }
    if has("config.toml") {
        return run(path, reach);
    }
    match gguf_files(path).as_slice() {
        [] => {}
        [file] => return Ok(plain(file)),
        [first, ..] => {
            let why = "it holds several GGUF files; name one of them";
            return Err(Failure::new(format!(
                "`{}` is no model: {why}, such as `{}`",
                path.display(),
                first.display()
            )));
        }
    }
    let why = "it has no config.json or GGUF file (a model), adapter_config.json (an adapter) or config.toml (a run)";
    Err(Failure::new(format!("`{}` is no model: {why}", path.display())))
}

/// A model by itself.
fn plain(checkpoint: &Path) -> Located {
    Located {
        checkpoint: checkpoint.to_path_buf(),
        adapter: None,
        quant: None,
    }
}

/// The GGUF files of a folder, by name; of pictures' encoders, which lie beside some models, none.
fn gguf_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let encoder = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("mmproj"))
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| ft_gguf::is_gguf(path) && !encoder(path))
        .collect();
    files.sort();
    files
}

/// The model of a run: `final/`, or the newest checkpoint of a run that has not ended.
fn run(path: &Path, reach: Reach) -> Result<Located, Failure> {
    let (result, warnings) = match path.join("final") {
        done if done.is_dir() => (done, Vec::new()),
        _ => Checkpoints::of(path)
            .latest()
            .context(format!("`{}` has no model yet", path.display()))?,
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    one_adapter(path, &result)?;
    if is_adapter(&result) {
        let config = ft_train::RunConfig::load(&path.join("config.toml"), &[])?;
        return with_base(&result, &config.model.path.to_string_lossy(), reach);
    }
    if !result.join("config.json").is_file() {
        return Err(Failure::new(format!(
            "`{}` has not ended, and its checkpoints hold what a resume needs alone; end it with `ft train {} --resume`",
            path.display(),
            path.join("config.toml").display()
        )));
    }
    Ok(plain(&result))
}

/// Refuses the folder of a run that ended with an adapter for each task: which one is meant?
fn one_adapter(named: &Path, folder: &Path) -> Result<(), Failure> {
    let inside = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut adapters: Vec<PathBuf> = inside
        .map(|entry| entry.path())
        .filter(|path| is_adapter(path))
        .collect();
    adapters.sort();
    match adapters.first() {
        Some(first) if !is_adapter(folder) => Err(Failure::new(format!(
            "`{}` has an adapter for each task; name one of them, such as `{}`",
            named.display(),
            first.display()
        ))),
        _ => Ok(()),
    }
}

fn with_base(adapter: &Path, base: &str, reach: Reach) -> Result<Located, Failure> {
    let doing = || format!("the base model of the adapter in `{}`", adapter.display());
    let checkpoint = match adapter.join(base) {
        beside if beside.is_dir() || ft_gguf::is_gguf(&beside) => beside,
        _ => base_checkpoint(base, reach).context(doing())?,
    };
    Ok(Located {
        checkpoint,
        adapter: Some(adapter.to_path_buf()),
        quant: quant_of(adapter),
    })
}

/// `model.quant` of the run whose `final/` or `checkpoints/step-N` an adapter folder is. Elsewhere nothing is known: the
/// base is taken as it is stored.
fn quant_of(adapter: &Path) -> Option<Scheme> {
    let adapter = std::path::absolute(adapter).ok()?;
    let configs = adapter
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("config.toml"));
    let config = configs.into_iter().find(|file| file.is_file())?;
    ft_train::RunConfig::load(&config, &[]).ok()?.model.quant
}

fn base_of_adapter(adapter: &Path) -> Result<String, Failure> {
    ft_peft::adapter::base_model(adapter)
        .filter(|base| !base.is_empty())
        .ok_or_else(|| {
            Failure::new(format!(
                "the adapter in `{}` does not name its base model; give the base as MODEL and this folder as --adapter",
                adapter.display()
            ))
        })
}

/// An adapter is named by its folder, or by the folder of a run that ended in one.
pub fn adapter_folder(path: &Path) -> Result<PathBuf, Failure> {
    let candidates = [path.to_path_buf(), path.join("final")];
    let found = candidates.iter().find(|p| is_adapter(p)).cloned();
    if found.is_none() {
        candidates.iter().try_for_each(|folder| one_adapter(path, folder))?;
    }
    match found {
        Some(folder) => Ok(folder),
        None if path.is_dir() => Err(Failure::new(format!(
            "`{}` holds no adapter_config.json",
            path.display()
        ))),
        None => Err(Failure::new(format!("no such folder: `{}`", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn message(failure: Failure) -> String {
        format!("{failure:?}")
    }

    #[test]
    fn a_checkpoint_and_an_adapter_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let adapter = dir.path().join("adapter");
        write(&base.join("config.json"), "{}");
        write(
            &adapter.join("adapter_config.json"),
            r#"{"base_model_name_or_path": "../base"}"#,
        );

        let plain = locate(base.to_str().unwrap(), None).unwrap();
        assert_eq!(
            plain,
            Located {
                checkpoint: base.clone(),
                adapter: None,
                quant: None
            }
        );
        let both = locate(base.to_str().unwrap(), Some(&adapter)).unwrap();
        assert_eq!(both.adapter, Some(adapter.clone()));
        let alone = locate(adapter.to_str().unwrap(), None).unwrap();
        assert_eq!(alone.checkpoint.canonicalize().unwrap(), base.canonicalize().unwrap());

        assert_eq!(alone.tokenizer(), alone.checkpoint);
        write(&adapter.join("tokenizer.json"), "{}");
        assert_eq!(alone.tokenizer(), adapter);
    }

    #[test]
    fn a_gguf_file_or_the_only_one_of_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("m.gguf"), dir.path().to_str().unwrap());
        write(&file, "");
        write(&dir.path().join("mmproj-m.gguf"), "");
        for model in [file.to_str().unwrap(), folder] {
            assert_eq!(locate(model, None).unwrap().checkpoint, file);
        }
        let adapter = dir.path().join("adapter");
        write(
            &adapter.join("adapter_config.json"),
            r#"{"base_model_name_or_path": "../m.gguf"}"#,
        );
        let alone = locate(adapter.to_str().unwrap(), None).unwrap();
        assert_eq!(alone.checkpoint.canonicalize().unwrap(), file.canonicalize().unwrap());
        write(&dir.path().join("n.gguf"), "");
        let told = message(locate(folder, None).unwrap_err());
        assert!(told.contains("several GGUF files") && told.contains("m.gguf"), "{told}");
        write(&dir.path().join("m.txt"), "");
        assert!(message(locate(&format!("{folder}/m.txt"), None).unwrap_err()).contains("(.gguf)"));
    }

    #[test]
    fn two_adapters_are_one_too_many() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("base/config.json"), "{}");
        let adapter = dir.path().join("adapter");
        write(
            &adapter.join("adapter_config.json"),
            r#"{"base_model_name_or_path": "../base"}"#,
        );
        assert!(message(locate(adapter.to_str().unwrap(), Some(&adapter)).unwrap_err()).contains("already brings"));
        assert!(message(checkpoint(adapter.to_str().unwrap()).unwrap_err()).contains("peft.from"));
    }

    /// Where adapters are folded, or tasks have their own, a checkpoint is no model.
    #[test]
    fn a_run_that_has_not_ended_may_have_no_model() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("config.toml"), "");
        let draft = ft_train::checkpoint::Draft::begin(&Checkpoints::of(dir.path()).path(3)).unwrap();
        write(&draft.path().join("trainer_state.json"), "{}");
        draft.commit().unwrap();
        let told = message(locate(dir.path().to_str().unwrap(), None).unwrap_err());
        assert!(told.contains("has not ended") && told.contains("--resume"), "{told}");
    }

    #[test]
    fn what_is_no_model_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert!(message(locate(path, None).unwrap_err()).contains("no config.json"));
        assert!(message(locate(&format!("{path}/a/b/c"), None).unwrap_err()).contains("no such folder"));
        write(
            &dir.path().join("adapter_config.json"),
            r#"{"base_model_name_or_path": null}"#,
        );
        assert!(message(locate(path, None).unwrap_err()).contains("does not name its base"));
    }
}
