//! What goes to stdout: text for people, or one JSON object for programs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::failure::Failure;

/// Writes one JSON object, indented, with a newline.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write(&text)
}

/// Writes text as it is. A closed pipe ends the program quietly.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// `1234567` as `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the largest binary unit that keeps a digit before the point: `1536` is `1.5 KiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A path as a person would type it: from the current folder where it lies below it.
pub fn path(path: &Path) -> std::path::Display<'_> {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display()
}

/// Rows as columns two spaces apart; `right` says which columns hold numbers and lean to the right.
pub fn table(rows: &[Vec<String>], right: &[bool]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| s.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(c, cell)| match right.get(c) {
            Some(true) => format!("{cell:>w$}", w = widths[c]),
            _ => format!("{cell:<w$}", w = widths[c]),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, one pair per line.
pub fn fields(rows: &[(&str, String)]) -> String {
    table(
        &rows
            .iter()
            .map(|(name, value)| vec![name.to_string(), value.clone()])
            .collect::<Vec<_>>(),
        &[],
    )
}

/// A name beside `out` for what is not whole yet.
pub fn draft(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".writing-{name}"))
}

/// Refuses to write over what is there.
pub fn must_not_exist(out: &Path) -> Result<(), Failure> {
    match out.exists() {
        true => Err(Failure::wrong_use(format!("--out {}: exists already", out.display()))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1000, 1_234_567].map(count).each_ref().map(|s| &**s)
        );
        assert_eq!(
            ["1023 B", "1.5 KiB", "2.0 GiB"],
            [1023, 1536, 2 << 30].map(bytes).each_ref().map(|s| &**s)
        );
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "1".into()], vec!["long".into(), "20".into()]];
        assert_eq!(table(&rows, &[false, true]), "a      1\nlong  20\n");
    }
}
