//! One idea = one file + one registration line. rustc says nothing about a file that no `mod` line names, nor
//! about a public module that nothing uses; this does.

use super::Text;

/// Folders whose every file is an entry of the table in their `mod.rs`.
const FOLDERS: &[&str] = &[
    "crates/ft-peft/src/methods",
    "crates/ft-model/src/families",
    "crates/ft-data/src/formats",
    "crates/ft-optim/src/schedules",
    "crates/ft-optim/src/optimizers",
    "crates/ft-eval/src/metrics",
    "crates/ft-cli/src/verbs",
];

pub fn check(texts: &[Text]) -> Vec<String> {
    FOLDERS.iter().flat_map(|folder| check_folder(folder, texts)).collect()
}

fn check_folder(folder: &str, texts: &[Text]) -> Vec<String> {
    let Some(list) = texts.iter().find(|t| t.path == format!("{folder}/mod.rs")) else {
        return vec![format!("{folder}/mod.rs is missing: the folder is a registry")];
    };
    entries(folder, texts)
        .iter()
        .filter_map(|name| check_entry(folder, name, &list.content))
        .collect()
}

/// Names of the modules in `folder`: `x.rs` and `x/mod.rs`. Test modules are no entries.
fn entries<'a>(folder: &str, texts: &'a [Text]) -> Vec<&'a str> {
    let inside = texts
        .iter()
        .filter_map(|t| t.path.strip_prefix(folder)?.strip_prefix('/'));
    let modules = inside.filter_map(|p| p.strip_suffix("/mod.rs").or_else(|| p.strip_suffix(".rs")));
    modules
        .filter(|name| !name.contains('/') && !matches!(*name, "mod" | "tests"))
        .collect()
}

fn check_entry(folder: &str, name: &str, list: &str) -> Option<String> {
    let code: Vec<&str> = list
        .lines()
        .map(|l| l.split("//").next().unwrap_or_default().trim())
        .collect();
    let declares = |line: &&str| {
        line.strip_suffix(';')
            .is_some_and(|l| l == format!("mod {name}") || l.ends_with(&format!(" mod {name}")))
    };
    if !code.iter().any(|line| declares(line)) {
        return Some(format!("{folder}/{name}.rs is not declared in {folder}/mod.rs"));
    }
    if !code.iter().any(|line| names_module(line, name)) {
        return Some(format!(
            "{folder}/{name}.rs is declared but not registered: no line of mod.rs uses `{name}::`"
        ));
    }
    None
}

/// Whether `line` holds `name::`, with `name` a whole word.
fn names_module(line: &str, name: &str) -> bool {
    let mut rest = line;
    let mut before = ' ';
    while let Some(at) = rest.find(name) {
        let start = rest[..at].chars().next_back().unwrap_or(before);
        let after = &rest[at + name.len()..];
        if !start.is_alphanumeric() && start != '_' && after.starts_with("::") {
            return true;
        }
        before = name.chars().next_back().unwrap_or(' ');
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    const FOLDER: &str = "a/methods";

    fn found(list: &str, files: &[&str]) -> Vec<String> {
        let mut texts = vec![text("a/methods/mod.rs", list)];
        texts.extend(files.iter().map(|f| text(&format!("a/methods/{f}"), "")));
        check_folder(FOLDER, &texts)
    }

    #[test]
    fn declared_and_used() {
        let list = "mod lora;\npub mod full;\nuse lora::Lora;\nenum E { A(Lora), B(full::Full) }";
        let files = ["lora.rs", "lora_init.rs", "full/mod.rs", "full/part.rs", "tests.rs"];
        assert!(found(list, &files).is_empty());
    }

    #[test]
    fn a_file_without_mod_line() {
        let list = "mod lora;\nuse lora::Lora;\n// mod dora; dora::X";
        assert_eq!(
            found(list, &["lora.rs", "dora.rs"]),
            ["a/methods/dora.rs is not declared in a/methods/mod.rs"]
        );
    }

    #[test]
    fn declared_but_in_no_table() {
        let list = "mod lora;\nmod ia3;\nuse lora::Lora;\nuse xia3::X;";
        assert!(found(list, &["lora.rs", "ia3.rs"])[0].contains("not registered"));
    }

    #[test]
    fn a_registry_needs_its_list() {
        assert!(check_folder(FOLDER, &[text("a/methods/lora.rs", "")])[0].contains("mod.rs is missing"));
    }
}
