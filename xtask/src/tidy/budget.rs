//! A Rust file holds one idea; past 400 lines it probably holds two.

use super::Text;

const LINES: usize = 400;

pub fn check(texts: &[Text]) -> Vec<String> {
    let rust = texts.iter().filter(|t| t.path.ends_with(".rs"));
    let long = rust
        .map(|t| (t, t.content.lines().count()))
        .filter(|(_, lines)| *lines > LINES);
    long.map(|(t, lines)| format!("{}: {lines} lines, the budget is {LINES}", t.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    #[test]
    fn only_long_rust_files() {
        let long = "x\n".repeat(LINES + 1);
        let texts = [
            text("a.rs", &long),
            text("b.rs", &"x\n".repeat(LINES)),
            text("c.md", &long),
        ];
        assert_eq!(check(&texts), ["a.rs: 401 lines, the budget is 400"]);
    }
}
