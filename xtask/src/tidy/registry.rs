//! One idea = one file + one registration line. rustc says nothing about a file that no `mod` line names, nor
//! about a public module that nothing uses; this does.

use super::Text;

/// Folders whose every file is an entry of the table in their `mod.rs`.
const FOLDERS: &[&str] = &[
    "crates/ft-peft/src/methods",
    "crates/ft-model/src/families",
    "crates/ft-data/src/formats",
    "crates/ft-data/src/sources",
    "crates/ft-optim/src/schedule",
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
    let names = entries(folder, texts);
    // `lora_init.rs` may be a part of the entry `lora.rs`: then somebody else in the crate uses it.
    let may_be_part = |name: &str| {
        names
            .iter()
            .any(|n| name.strip_prefix(n).is_some_and(|rest| rest.starts_with('_')))
    };
    let is_used = |name: &str| others(folder, texts).any(|t| code(&t.content).any(|line| names_module(line, name)));
    let check = |name: &&str| {
        let registered = code(&list.content).any(|line| names_module(line, name));
        check_entry(
            folder,
            name,
            &list.content,
            registered || (may_be_part(name) && is_used(name)),
        )
    };
    names.iter().filter_map(check).collect()
}

/// Names of the modules in `folder`: `x.rs` and `x/mod.rs`. Tests and what the entries share are none.
fn entries<'a>(folder: &str, texts: &'a [Text]) -> Vec<&'a str> {
    let inside = texts
        .iter()
        .filter_map(|t| t.path.strip_prefix(folder)?.strip_prefix('/'));
    let modules = inside.filter_map(|p| p.strip_suffix("/mod.rs").or_else(|| p.strip_suffix(".rs")));
    modules
        .filter(|name| !name.contains('/') && !matches!(*name, "mod" | "tests" | "common"))
        .collect()
}

/// The other files of the crate that `folder` is in.
fn others<'a>(folder: &str, texts: &'a [Text]) -> impl Iterator<Item = &'a Text> {
    let parent = folder.rsplit_once('/').map_or(folder, |(parent, _)| parent).to_string();
    texts.iter().filter(move |t| t.path.starts_with(&parent))
}

/// The lines of a file, comments left out.
fn code(content: &str) -> impl Iterator<Item = &str> {
    content.lines().map(|l| l.split("//").next().unwrap_or_default().trim())
}

fn check_entry(folder: &str, name: &str, list: &str, registered: bool) -> Option<String> {
    let declares = |line: &str| {
        line.strip_suffix(';')
            .is_some_and(|l| l == format!("mod {name}") || l.ends_with(&format!(" mod {name}")))
    };
    if !code(list).any(declares) {
        return Some(format!("{folder}/{name}.rs is not declared in {folder}/mod.rs"));
    }
    let why = "is declared but not registered: no line of mod.rs uses";
    (!registered).then(|| format!("{folder}/{name}.rs {why} `{name}::`"))
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
        assert!(
            found(
                list,
                &["lora.rs", "full/mod.rs", "full/part.rs", "tests.rs", "common.rs"]
            )
            .is_empty()
        );
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
    fn a_part_of_an_entry_needs_a_user() {
        let list = text("a/methods/mod.rs", "mod lora;\nmod lora_init;\nuse lora::Lora;");
        let user = text("a/attach.rs", "lora_init::fill();");
        let files = || [text("a/methods/lora.rs", ""), text("a/methods/lora_init.rs", "")];
        let [lora, init] = files();
        assert!(check_folder(FOLDER, &[list, user, lora, init]).is_empty());
        let list = text("a/methods/mod.rs", "mod lora;\nmod lora_init;\nuse lora::Lora;");
        let [lora, init] = files();
        assert!(check_folder(FOLDER, &[list, lora, init])[0].contains("lora_init.rs is declared but not"));
    }

    #[test]
    fn a_registry_needs_its_list() {
        assert!(check_folder(FOLDER, &[text("a/methods/lora.rs", "")])[0].contains("mod.rs is missing"));
    }
}
