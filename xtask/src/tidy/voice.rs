//! Libraries are silent: only `ft-cli` prints, reads the environment or picks a device.

use super::Text;

// Written in pieces, so that this file passes a search for them.
const SPOKEN: &[(&str, &str)] = &[
    (concat!("print", "ln!("), "prints"),
    (concat!("print", "!("), "prints"),
    (concat!("dbg", "!("), "prints"),
    (concat!("env::", "var"), "reads the environment"),
    (concat!("Device::", "default()"), "picks a device"),
];

/// Files that may do what the others may not, and why.
const EXCEPTIONS: &[(&str, &str)] = &[(
    "crates/ft-kernels/src/cpu/isa.rs",
    "FT_ISA lowers the instruction set, so that tests reach the slower paths",
)];

pub fn check(texts: &[Text]) -> Vec<String> {
    texts
        .iter()
        .filter(|t| is_library(&t.path))
        .flat_map(check_file)
        .collect()
}

fn is_library(path: &str) -> bool {
    let in_src = path.starts_with("crates/") && path.contains("/src/") && path.ends_with(".rs");
    let excepted = EXCEPTIONS.iter().any(|(file, _)| *file == path);
    in_src
        && !excepted
        && !path.starts_with("crates/ft-cli/")
        && !path.ends_with("tests.rs")
        && !path.contains("/tests/")
}

/// Looks at the code above the tests, comments left out.
fn check_file(file: &Text) -> Vec<String> {
    let lines = (1..)
        .zip(file.content.lines())
        .take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"));
    let code = lines.map(|(number, line)| (number, line.split("//").next().unwrap_or_default()));
    let found = code.filter_map(|(number, line)| Some((number, SPOKEN.iter().find(|(what, _)| line.contains(what))?)));
    found
        .map(|(number, (_, does))| format!("{}:{number}: a library {does}; leave that to ft-cli", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    const LOUD: &str = concat!("fn f() {\n    print", "ln!(\"x\");\n}\n");

    #[test]
    fn a_library_that_prints_is_named_with_its_line() {
        let found = check(&[text("crates/ft-data/src/a.rs", LOUD)]);
        assert_eq!(
            found,
            ["crates/ft-data/src/a.rs:2: a library prints; leave that to ft-cli"]
        );
    }

    #[test]
    fn the_command_line_tests_and_comments_may() {
        assert!(
            check(&[
                text("crates/ft-cli/src/a.rs", LOUD),
                text("crates/ft-data/src/tests.rs", LOUD)
            ])
            .is_empty()
        );
        let quiet = format!(
            "/// {}\n#[cfg(test)]\nmod tests {{\n{LOUD}}}\n",
            LOUD.replace('\n', " ")
        );
        assert!(check(&[text("crates/ft-data/src/a.rs", &quiet)]).is_empty());
    }
}
