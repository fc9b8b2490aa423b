//! No file names a folder of somebody's machine: such a line works nowhere else.

use super::Text;

// Written in pieces, so that this file passes its own check.
const HOMES: &[&str] = &[
    concat!("/", "home/"),
    concat!("/", "root/"),
    concat!("/", "Users/"),
    concat!("/", "work/"),
];

pub fn check(texts: &[Text]) -> Vec<String> {
    texts
        .iter()
        .filter(|t| t.path != "Cargo.lock")
        .flat_map(check_file)
        .collect()
}

fn check_file(file: &Text) -> Vec<String> {
    let lines = (1..).zip(file.content.lines());
    let found = lines.filter_map(|(number, line)| Some((number, HOMES.iter().find(|home| names(line, home))?)));
    found
        .map(|(number, home)| format!("{}:{number}: names a machine's folder ({home}..)", file.path))
        .collect()
}

/// Whether a path in `line` starts with `home`: what stands before it is no part of a path.
fn names(line: &str, home: &str) -> bool {
    let part_of_path = |c: char| c.is_alphanumeric() || "_-.~/}".contains(c);
    line.match_indices(home)
        .any(|(at, _)| !line[..at].chars().next_back().is_some_and(part_of_path))
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    #[test]
    fn absolute_folders_are_found() {
        let home = HOMES[0];
        let found = check(&[text("a.toml", &format!("fine\npath = \"{home}me/model\"\n"))]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("a.toml:2:"), "{found:?}");
    }

    #[test]
    fn relative_folders_and_addresses_are_not() {
        let page = HOMES.map_join(|home| format!("my{home}x ..{home}x https://example.org{home}\n"));
        assert!(check(&[text("a.md", &page)]).is_empty());
    }

    trait MapJoin {
        fn map_join(&self, f: impl Fn(&str) -> String) -> String;
    }

    impl MapJoin for [&str] {
        fn map_join(&self, f: impl Fn(&str) -> String) -> String {
            self.iter().map(|s| f(s)).collect()
        }
    }
}
