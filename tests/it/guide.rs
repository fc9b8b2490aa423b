//! `docs/guide/`: one page per method, per objective and per strategy against forgetting, made from its file's header, its options' documentation and the measured figures. This
//! test fails when a page is out of date; `cargo xtask guide` (this test with `FT_BLESS=1`) writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use ft_peft::PeftConfig;
use ft_train::RunConfig;
use ft_train::continual::StrategyConfig;
use ft_train::objectives::ObjectiveConfig;
use serde_json::Value;

use crate::continual_results;

/// Pages that other tests make (`ft data preview`) or people.
const ELSEWHERE: &[&str] = &["augmentation.md", "gguf.md", "preview.md", "ranks.md", "serving.md"];

#[test]
fn the_guide_says_what_the_code_says() {
    let pages = Guide::read().pages();
    let folder = root().join("docs/guide");
    if std::env::var_os("FT_BLESS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        pages
            .iter()
            .for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }
    let found = fs::read_dir(&folder).expect("docs/guide").flatten();
    let found: Vec<String> = found.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    for name in &found {
        assert!(
            pages.contains_key(name) || ELSEWHERE.contains(&name.as_str()),
            "docs/guide/{name}: nothing has this page"
        );
    }
    for (name, text) in &pages {
        let there = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            there == *text,
            "docs/guide/{name} is out of date: run `cargo xtask guide`"
        );
    }
}

/// The families' names, as the README has them.
#[test]
fn the_readme_names_the_families_of_the_registry() {
    const ENDS: [&str; 2] = [
        "<!-- families, made by `cargo xtask guide` -->\n",
        "<!-- end of families -->",
    ];
    let encoders: Vec<&str> = ft_model::families::encoders().collect();
    let (of, decoders): (Vec<&str>, Vec<&str>) = ft_model::families::names().partition(|name| encoders.contains(name));
    let list = |names: Vec<&str>| {
        names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let table = format!(
        "| | |\n|---|---|\n| decoders | {} |\n| encoders | {} |\n",
        list(decoders),
        list(of)
    );
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(ENDS[0]).expect("a place for the families");
    let (_, after) = rest.split_once(ENDS[1]).expect("its end");
    let wanted = [before, ENDS[0], &table, ENDS[1], after].concat();
    if std::env::var_os("FT_BLESS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(
        found == wanted,
        "README.md names other families than the registry: run `cargo xtask guide`"
    );
}

/// A family of under 60 lines, as CONTRIBUTING shows it.
#[test]
fn contributing_shows_a_family_as_it_is() {
    let shown = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let family = fs::read_to_string(root().join("crates/ft-model/src/families/olmo2.rs")).unwrap();
    assert!(family.lines().count() < 60 && shown.contains(&format!("```rust\n{family}```")));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Everything the pages are made of.
struct Guide {
    /// File of each method under `crates/ft-peft/src/methods`, by its name.
    files: BTreeMap<&'static str, String>,
    schema: Value,
    /// Configurations by method.
    configs: BTreeMap<String, Vec<String>>,
    /// Configurations by objective.
    objective_configs: BTreeMap<String, Vec<String>>,
    /// Configurations by strategy.
    strategy_configs: BTreeMap<String, Vec<String>>,
    /// Lines of `benches/results/methods.jsonl` by method.
    figures: BTreeMap<String, Value>,
}

impl Guide {
    fn read() -> Self {
        let registry = fs::read_to_string(root().join("crates/ft-peft/src/methods/mod.rs")).unwrap();
        let file = |name: &&'static str| {
            let line = registry
                .lines()
                .find(|l| l.trim_start().starts_with(&format!("\"{name}\" =>")));
            let module = line
                .and_then(|l| l.split_once('(')?.1.split_once("::"))
                .expect("a registry line")
                .0;
            (*name, format!("crates/ft-peft/src/methods/{module}.rs"))
        };
        Self {
            files: PeftConfig::NAMES.iter().map(file).collect(),
            schema: RunConfig::schema(),
            configs: configs("method = "),
            objective_configs: configs("kind = "),
            strategy_configs: configs("strategy = "),
            figures: figures(),
        }
    }

    fn pages(&self) -> BTreeMap<String, String> {
        let page = |name: &&'static str| (format!("{name}.md"), self.page(name));
        let mut pages: BTreeMap<String, String> = PeftConfig::NAMES.iter().map(page).collect();
        let page = |name: &&'static str| (objective_file(name), self.objective(name));
        pages.extend(ObjectiveConfig::NAMES.iter().map(page));
        let page = |name: &&'static str| (strategy_file(name), self.strategy(name));
        pages.extend(StrategyConfig::NAMES.iter().map(page));
        pages.insert("families.md".into(), families());
        pages.insert("README.md".into(), self.index());
        pages
    }

    /// The page of an objective.
    fn objective(&self, name: &str) -> String {
        let (title, body) = header(&format!("crates/ft-train/src/objectives/{name}.rs"));
        let mut text = format!("# `objective.kind = \"{name}\"`\n\n{title}\n{body}\n");
        let _ = writeln!(text, "```toml\n[objective]\nkind = \"{name}\"\n```\n");
        if let Some(files) = self.objective_configs.get(name) {
            let _ = writeln!(text, "To run: {}.\n", links(files));
        }
        text + &table(&self.choices("ObjectiveConfig", "kind", name))
    }

    /// The page of a strategy against forgetting.
    fn strategy(&self, name: &str) -> String {
        let (title, body) = header(&format!("crates/ft-train/src/continual/{name}.rs"));
        let mut text = format!("# `continual.strategy = \"{name}\"`\n\n{title}\n{body}\n");
        let _ = writeln!(
            text,
            "```toml\n[continual]\nstrategy = \"{name}\"\nsteps_per_task = 200\n```\n"
        );
        if let Some(files) = self.strategy_configs.get(name) {
            let _ = writeln!(text, "To run: {}.\n", links(files));
        }
        text + &table(&self.choices("ContinualSection", "strategy", name)) + &continual_results::of_strategy(name)
    }

    fn index(&self) -> String {
        let mut text = "Before any of it: [what training sees of your data](preview.md), and [further records made from those that are there](augmentation.md). Models in llama.cpp's files: [GGUF](gguf.md). For more than one process or machine: [ranks](ranks.md). And when it is trained: [serving many adapters](serving.md).\n\n# Methods\n\nOne page each, made by `cargo xtask guide` from the source of the method. The learning rate is the one used \
            where nobody gives one (`optim.lr`).\n\n| `peft.method` | | learning rate | targets |\n|---|---|---|---|\n"
            .to_owned();
        for name in PeftConfig::NAMES {
            let title = self.header(name).0;
            let _ = writeln!(
                text,
                "| [`{name}`]({name}.md) | {title} | {:e} | {} |",
                rate(name),
                self.targets(name)
            );
        }
        text += &measured(PeftConfig::NAMES.iter().filter_map(|name| self.figures.get(*name)));
        text += "\n# Objectives\n\nWhat is minimized; every one works with every method, over every storage.\n\n\
            | `objective.kind` | |\n|---|---|\n";
        for name in ObjectiveConfig::NAMES {
            let (title, _) = header(&format!("crates/ft-train/src/objectives/{name}.rs"));
            let _ = writeln!(text, "| [`{name}`]({}) | {title} |", objective_file(name));
        }
        text += "\n# Model families\n\n[Which models run](families.md).\n";
        text += "\n# Tasks one after the other\n\nWhat is done against forgetting; every one works with every method, over every storage, but \
            `olora` (LoRA) and `adapters` (methods that leave the base as it is). With most, `between_tasks = \"fold\"` makes each task's adapter a part of \
            the base before a fresh one starts.\n\n\
            | `continual.strategy` | |\n|---|---|\n";
        for name in StrategyConfig::NAMES {
            let (title, _) = header(&format!("crates/ft-train/src/continual/{name}.rs"));
            let _ = writeln!(text, "| [`{name}`]({}) | {title} |", strategy_file(name));
        }
        text + &continual_results::for_guide()
    }

    fn page(&self, name: &str) -> String {
        let (title, body) = self.header(name);
        let mut text = format!("# `{name}`\n\n{title}\n{body}\n");
        let _ = writeln!(
            text,
            "```toml\n[peft]\nmethod = \"{name}\"\n```\n\nLearning rate where none is given: {:e}.\n",
            rate(name)
        );
        if let Some(files) = self.configs.get(name) {
            let _ = writeln!(text, "To run: {}.\n", links(files));
        }
        text += &table(&self.options(name));
        for (_, part) in PARTS.iter().filter(|(whole, _)| whole == &name) {
            let (title, body) = header(&format!("crates/ft-peft/src/methods/{part}.rs"));
            let _ = write!(text, "\n## {}\n{body}", title.trim_end_matches('.'));
        }
        text + &measured(self.figures.get(name).into_iter())
    }

    /// First sentence and the rest of the method's documentation.
    fn header(&self, name: &str) -> (String, String) {
        header(&self.files[name])
    }

    fn options(&self, name: &str) -> Vec<(&String, &Value)> {
        self.choices("PeftConfig", "method", name)
    }

    /// The options of the choice `name` of an enum that `tag` tells apart.
    fn choices(&self, list: &str, tag: &str, name: &str) -> Vec<(&String, &Value)> {
        let choices = self.schema["$defs"][list]["oneOf"]
            .as_array()
            .expect("a list of choices");
        let choice = choices.iter().find(|c| c["properties"][tag]["const"] == name);
        let options = choice.and_then(|c| c["properties"].as_object()).expect("options");
        options.iter().filter(|(key, _)| *key != tag).collect()
    }

    fn targets(&self, name: &str) -> String {
        let options = self.options(name);
        let targets = options.iter().find(|(key, _)| *key == "targets");
        targets.map_or("".into(), |(_, option)| default(option))
    }
}

/// The page of the model families.
fn families() -> String {
    let mut text = "# Model families\n\nMade by `cargo xtask guide` from `crates/ft-model/src/families`. Of a model that also sees or hears, the \
        language model (`text_config`) is loaded and saved alone; what else its folder holds is left out.\n\n\
        | `model_type` | | class in transformers | GGUF |\n|---|---|---|---|\n"
        .to_owned();
    let registry = fs::read_to_string(root().join("crates/ft-model/src/families/mod.rs")).unwrap();
    let registry: String = registry.split_whitespace().collect();
    for (name, class, gguf) in ft_model::families::list() {
        let line = registry
            .split_once(&format!("family(\"{name}\","))
            .map(|(_, rest)| rest);
        let module = line.and_then(|line| line.split_once("::parse")?.0.rsplit_once(','));
        let module = module.expect("a registry line").1;
        let (title, _) = header(&format!("crates/ft-model/src/families/{module}.rs"));
        let gguf = gguf.map_or("no".to_owned(), |architecture| format!("`{architecture}`"));
        let _ = writeln!(text, "| `{name}` | {title} | `{class}` | {gguf} |");
    }
    text
}

fn objective_file(name: &str) -> String {
    format!("objective-{name}.md")
}

fn strategy_file(name: &str) -> String {
    format!("continual-{name}.md")
}

fn links(files: &[String]) -> String {
    let link = |file: &String| format!("[configs/{file}](../../configs/{file})");
    files.iter().map(link).collect::<Vec<_>>().join(", ")
}

/// Options with their defaults and what they are.
fn table(options: &[(&String, &Value)]) -> String {
    let mut text = "| option | default | |\n|---|---|---|\n".to_owned();
    for (key, option) in options {
        let about = prose(option["description"].as_str().unwrap_or_default());
        let _ = writeln!(
            text,
            "| `{key}` | {} | {} |",
            default(option),
            about.replace('|', "\\|")
        );
    }
    text
}

/// Options that are a technique of their own, with a file beside their method's.
const PARTS: &[(&str, &str)] = &[("lora", "dora")];

/// First paragraph and the rest of a module's documentation.
fn header(file: &str) -> (String, String) {
    let source = fs::read_to_string(root().join(file)).unwrap();
    let lines = source.lines().map_while(|l| l.strip_prefix("//!"));
    let lines: Vec<String> = lines.map(|l| prose(l.strip_prefix(' ').unwrap_or(l))).collect();
    let split = lines.iter().position(String::is_empty).unwrap_or(lines.len());
    (lines[..split].join(" "), lines[split..].join("\n") + "\n")
}

/// Rust documentation without its links to items, on one line.
fn prose(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (link, tail) = after.split_once(')').unwrap_or((after, ""));
        let kept = if link.contains("::") { None } else { Some(link) };
        match (kept, before.rsplit_once('[')) {
            (None, Some((lead, word))) => out += &format!("{lead}{word}"),
            _ => out += &format!("{before}]({link})"),
        }
        rest = tail;
    }
    (out + rest).replace("[`", "`").replace("`]", "`").replace('\n', " ")
}

fn rate(name: &str) -> f64 {
    PeftConfig::named(name)
        .expect("a registered name")
        .method()
        .learning_rate()
}

fn default(option: &Value) -> String {
    match &option["default"] {
        Value::Null => String::new(),
        value => format!("`{value}`"),
    }
}

/// Names of the configurations by what stands behind the first line that begins so.
fn configs(start: &str) -> BTreeMap<String, Vec<String>> {
    let mut by_method = BTreeMap::<String, Vec<String>>::new();
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("configs"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        if let Some(line) = text.lines().find(|l| l.starts_with(start)) {
            let method = line.trim_start_matches(start).trim_matches('"').to_owned();
            let name = file.file_name().expect("a file").to_string_lossy().into_owned();
            by_method.entry(method).or_default().push(name);
        }
    }
    by_method
}

fn figures() -> BTreeMap<String, Value> {
    let text = fs::read_to_string(root().join("benches/results/methods.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    lines
        .map(|line| (line["method"].as_str().expect("a name").to_owned(), line))
        .collect()
}

/// The measured figures as a table; nothing where there are none.
fn measured<'v>(lines: impl Iterator<Item = &'v Value>) -> String {
    let mut text = String::new();
    for line in lines {
        if text.is_empty() {
            text += "\n## Measured\n\nA step at SmolLM2-135M's dimensions (4 x 256 tokens, f32, 2 CPU cores) beside PEFT's in the same run, and a \
                run of `ft train` on the embedded model with the method's default options, at its best learning rate ([how](../../benches/results/README.md)).\n\n\
                | method | trainable | file | tokens/s | x PEFT's | peak memory | of PEFT's | rate | loss | exact match |\n\
                |---|---|---|---|---|---|---|---|---|---|\n";
        }
        let number = |key: &str| line[key].as_f64();
        let show = |key: &str, scale: f64, digits: usize, unit: &str| {
            number(key).map_or("-".into(), |n| format!("{:.digits$}{unit}", n * scale))
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} → {} | {} |",
            line["method"].as_str().unwrap_or_default(),
            show("trainable", 1.0, 0, ""),
            show("file_bytes", 1e-3, 0, " kB"),
            show("tokens_per_s", 1.0, 0, ""),
            show("x_torch", 1.0, 2, ""),
            show("peak_bytes", 1e-9, 2, " GB"),
            show("of_torch_memory", 1.0, 2, ""),
            number("lr").map_or("-".into(), |lr| format!("{lr:.0e}")),
            show("loss_before", 1.0, 2, ""),
            show("loss_after", 1.0, 2, ""),
            show("exact_match", 100.0, 1, " %"),
        );
    }
    text
}
