//! A path that Markdown names exists: link targets, and code that starts with a folder of the repository.

use super::Text;

/// Where a path in code must start to be taken for one of ours; `ft-data/src/..` is short for `crates/ft-data/src/..`.
const ROOTS: &[&str] = &[
    ".cargo/", ".ci/", "benches/", "configs/", "crates/", "docs/", "tests/", "vendor/", "xtask/",
];

/// `exists` answers for a path from the repository root.
pub fn check(texts: &[Text], exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    texts
        .iter()
        .filter(|t| t.path.ends_with(".md"))
        .flat_map(|t| check_file(t, exists))
        .collect()
}

fn check_file(file: &Text, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in (1..).zip(file.content.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let named = if fenced {
            code_paths(line)
        } else {
            prose_paths(line, folder)
        };
        let missing = named.into_iter().filter(|path| !exists(path));
        found.extend(missing.map(|path| format!("{}:{number}: names {path}, which does not exist", file.path)));
    }
    found
}

/// Paths from the root in a line of prose: code spans and link targets.
fn prose_paths(line: &str, folder: &str) -> Vec<String> {
    let mut paths: Vec<String> = line.split('`').skip(1).step_by(2).flat_map(code_paths).collect();
    paths.extend(link_targets(line).filter_map(|target| from_root(folder, target)));
    paths
}

/// The words of a piece of code that are paths into the repository.
fn code_paths(code: &str) -> Vec<String> {
    code.split_whitespace().filter_map(code_path).collect()
}

fn code_path(word: &str) -> Option<String> {
    let word = word.trim_matches(|c: char| "\"'(),;:".contains(c));
    let path = word
        .split_once(':')
        .map_or(word, |(path, _line)| path)
        .trim_end_matches('.');
    let is_crate = path.starts_with("ft-") && path.contains("/src");
    if is_placeholder(path) || !(is_crate || ROOTS.iter().any(|root| path.starts_with(root))) {
        return None;
    }
    Some(if is_crate {
        format!("crates/{path}")
    } else {
        path.to_string()
    })
}

/// `<name>`, `*` and the like; `x.rs` is the name the documents give to the file that the reader will add.
fn is_placeholder(path: &str) -> bool {
    path.contains(|c: char| "<>*{}$|=[]#@".contains(c)) || path.split('/').any(|part| part.starts_with("x."))
}

/// The `target` of every `[text](target)`.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// A link target as a path from the root; `None` for web addresses and anchors.
fn from_root(folder: &str, target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or_default();
    if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    const THERE: &[&str] = &[
        "crates/ft-peft/src/methods",
        "docs/adr/0001.md",
        "README.md",
        "configs/lora.toml",
    ];

    fn found(path: &str, content: &str) -> Vec<String> {
        check(&[text(path, content)], &|p| THERE.contains(&p.trim_end_matches('/')))
    }

    #[test]
    fn existing_paths_pass() {
        let page = "See `crates/ft-peft/src/methods/`, `ft-peft/src/methods` and [one](docs/adr/0001.md#why).\n\
                    ```\nft train configs/lora.toml --set a=b\n```\n[web](https://example.org/x) [here](#part)";
        assert!(found("README.md", page).is_empty(), "{:?}", found("README.md", page));
    }

    #[test]
    fn missing_paths_are_named_with_their_line() {
        let page = "fine\n`crates/gone/src/lib.rs:12`\n[x](docs/gone.md)\n```\ncat configs/gone.toml\n```\n";
        let found = found("README.md", page);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].starts_with("README.md:2: names crates/gone/src/lib.rs,"),
            "{found:?}"
        );
        assert!(found[2].contains("configs/gone.toml"), "{found:?}");
    }

    #[test]
    fn links_are_relative_to_their_page() {
        assert!(found("docs/adr/0002.md", "[a](0001.md) [b](../../README.md)").is_empty());
        assert_eq!(found("docs/adr/0002.md", "[a](README.md)").len(), 1);
    }

    #[test]
    fn placeholders_other_code_and_other_files_are_left_alone() {
        let page = "`crates/<name>/src` `configs/*.toml` `ft-peft/src/methods/x.rs` `ft-peft` `runs/a/b` `ft train`";
        assert!(found("README.md", page).is_empty(), "{:?}", found("README.md", page));
        assert!(found("a.rs", "`crates/gone`").is_empty());
    }
}
