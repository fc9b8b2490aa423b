//! What was measured, a line as soon as it is: a comparison that was killed goes on, and no run is made twice.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use serde_json::{Map, Value};

/// The figures of a run.
pub type Line = Map<String, Value>;

/// A file of JSON lines; the first says under which conditions the others were measured.
pub struct Journal {
    kept: Mutex<Kept>,
}

struct Kept {
    file: File,
    lines: Vec<Line>,
}

impl Journal {
    /// Opens or begins the file. One that was begun under other conditions is an error.
    pub fn open(path: &Path, conditions: &Line) -> Result<Self, String> {
        let told = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(told(&e)),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut lines = parse(whole).map_err(|e| told(&e))?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| told(&e))?;
        file.set_len(whole.len() as u64).map_err(|e| told(&e))?;
        match lines.first() {
            None => {
                write(&mut file, conditions).map_err(|e| told(&e))?;
                lines.push(conditions.clone());
            }
            Some(first) => {
                if let Some((key, there, here)) = other(first, conditions) {
                    return Err(format!(
                        "{}: was begun with {key} = {there}, not {here}; give another --out, or remove it",
                        path.display()
                    ));
                }
            }
        }
        let kept = Mutex::new(Kept { file, lines });
        Ok(Self { kept })
    }

    /// The line that has all of these values.
    pub fn find(&self, wanted: &[(&str, Value)]) -> Option<Line> {
        let kept = self.kept.lock().expect("no holder panics");
        let mut lines = kept.lines.iter();
        lines
            .find(|line| wanted.iter().all(|(key, value)| line.get(*key) == Some(value)))
            .cloned()
    }

    pub fn add(&self, line: Line) -> Result<(), String> {
        let mut kept = self.kept.lock().expect("no holder panics");
        write(&mut kept.file, &line).map_err(|e| format!("the results: {e}"))?;
        kept.lines.push(line);
        Ok(())
    }

    pub fn lines(&self) -> Vec<Line> {
        self.kept.lock().expect("no holder panics").lines.clone()
    }
}

/// Lines of a results file.
pub fn parse(text: &str) -> Result<Vec<Line>, serde_json::Error> {
    text.lines().map(serde_json::from_str).collect()
}

fn write(file: &mut File, line: &Line) -> std::io::Result<()> {
    file.write_all((Value::from(line.clone()).to_string() + "\n").as_bytes())?;
    file.sync_data()
}

/// The first condition that differs. The machine may: figures of one row come from one run.
fn other<'l>(first: &'l Line, now: &'l Line) -> Option<(&'l String, &'l Value, &'l Value)> {
    now.iter()
        .filter(|(key, _)| !["machine", "commit", "date"].contains(&key.as_str()))
        .find_map(|(key, value)| {
            let there = first.get(key).unwrap_or(&Value::Null);
            (there != value).then_some((key, there, value))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pairs: &[(&str, i64)]) -> Line {
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), (*value).into()))
            .collect()
    }

    #[test]
    fn a_line_cut_off_is_dropped_and_other_conditions_are_refused() {
        let path = std::env::temp_dir().join(format!("ft-journal-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let journal = Journal::open(&path, &line(&[("steps", 7)])).unwrap();
        journal.add(line(&[("seed", 1), ("loss", 3)])).unwrap();
        drop(journal);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "{\"seed\":2,\"lo";
        std::fs::write(&path, text).unwrap();

        let journal = Journal::open(&path, &line(&[("steps", 7)])).unwrap();
        assert_eq!(journal.find(&[("seed", 1.into())]).unwrap()["loss"], 3);
        assert!(journal.find(&[("seed", 2.into())]).is_none());
        journal.add(line(&[("seed", 2), ("loss", 4)])).unwrap();
        assert_eq!(parse(&std::fs::read_to_string(&path).unwrap()).unwrap().len(), 3);

        let why = Journal::open(&path, &line(&[("steps", 8)])).err().unwrap();
        assert!(why.contains("steps = 7, not 8"), "{why}");
        std::fs::remove_file(&path).unwrap();
    }
}
