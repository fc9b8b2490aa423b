//! What the name of a model means.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ft_data::Tokenizer;
use ft_infer::{GenerationConfig, Vocabulary};

/// The base or an adapter as its clients meet it.
#[derive(Clone, Debug)]
pub struct Persona {
    /// What requests call it.
    pub name: String,
    /// The adapter's name in the engine; `None` is the base.
    pub adapter: Option<String>,
    /// The folder.
    pub root: PathBuf,
    /// With the chat template that belongs to it.
    pub tokenizer: Tokenizer,
    /// Where a request says nothing.
    pub settings: GenerationConfig,
    vocabulary: Arc<OnceLock<Vocabulary>>,
}

impl Persona {
    /// The base model in `root`.
    pub fn base(name: String, root: PathBuf, tokenizer: Tokenizer, mut settings: GenerationConfig) -> Self {
        add_stops(&mut settings, &tokenizer);
        Self {
            name,
            adapter: None,
            root,
            tokenizer,
            settings,
            vocabulary: Arc::default(),
        }
    }

    /// The adapter in `folder`, over `base`: an adapter may bring its tokenizer, its chat template and its generation settings.
    ///
    /// # Errors
    /// Files in the folder that cannot be read, or a tokenizer that is not the base's.
    pub fn adapter(base: &Persona, name: &str, folder: &Path) -> Result<Self, String> {
        let has = |file: &str| folder.join(file).is_file();
        let tokenizer = if has("tokenizer.json") {
            Tokenizer::from_dir(folder).map_err(|e| e.to_string())?
        } else if has("chat_template.jinja") {
            let file = folder.join("chat_template.jinja");
            let source = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            base.tokenizer
                .clone()
                .with_chat_template(&source)
                .map_err(|e| e.to_string())?
        } else {
            base.tokenizer.clone()
        };
        let own = |tokenizer: &Tokenizer| tokenizer.encode("The quick brown fox, 1999.", false).ok();
        if own(&tokenizer) != own(&base.tokenizer) {
            let folder = folder.display();
            return Err(format!("the tokenizer in {folder} is not that of the base model"));
        }
        let mut settings = match has("generation_config.json") {
            true => GenerationConfig::from_dir(folder, &base.settings.eos_token_id).map_err(|e| e.to_string())?,
            false => base.settings.clone(),
        };
        add_stops(&mut settings, &tokenizer);
        let same = !has("tokenizer.json") && settings.eos_token_id == base.settings.eos_token_id;
        Ok(Self {
            vocabulary: if same { base.vocabulary.clone() } else { Arc::default() },
            name: name.into(),
            adapter: Some(name.into()),
            root: folder.into(),
            tokenizer,
            settings,
        })
    }

    /// For answers of a given structure. Made when the first is asked for.
    pub(crate) fn vocabulary(&self) -> Result<&Vocabulary, String> {
        if let Some(made) = self.vocabulary.get() {
            return Ok(made);
        }
        let made = Vocabulary::new(&self.tokenizer, &self.settings.eos_token_id)?;
        Ok(self.vocabulary.get_or_init(|| made))
    }
}

/// Adds the tokenizer's stop tokens to those of the settings: what fine-tuning taught a model to stop at may be unknown to these.
fn add_stops(settings: &mut GenerationConfig, tokenizer: &Tokenizer) {
    for id in tokenizer.eos_ids() {
        if !settings.eos_token_id.contains(id) {
            settings.eos_token_id.push(*id);
        }
    }
}
