//! Run folders of `ft train` below one folder: what they are called, how far they are, and their metrics as they are written.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What a run logs.
const METRICS: &str = "metrics.jsonl";
/// Bytes at the end of the metrics in which the newest figures are looked for.
const TAIL: u64 = 64 << 10;
/// Most bytes of the metrics that are read at once.
const PIECE: u64 = 1 << 20;

/// The runs of a folder, newest first.
pub fn list(folder: &Path) -> io::Result<Vec<Value>> {
    let mut found: Vec<_> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| {
            let written = entry.path().join(METRICS).metadata().ok()?.modified().ok()?;
            Some((written, entry.file_name().into_string().ok()?, entry.path()))
        })
        .collect();
    found.sort_by_key(|(written, ..)| std::cmp::Reverse(*written));
    Ok(found.into_iter().map(|(_, name, path)| about(&name, &path)).collect())
}

/// The folder of a run; a name is no path.
pub fn folder(runs: &Path, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    let run = runs.join(name);
    (plain && run.join(METRICS).is_file()).then_some(run)
}

fn about(name: &str, run: &Path) -> Value {
    let newest = tail(&run.join(METRICS)).unwrap_or_default();
    let lines: Vec<Value> = newest
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let last = |key: &str| {
        let mut values = lines.iter().rev().filter_map(|line| line.get(key));
        values.find(|value| !value.is_null()).cloned()
    };
    let config = fs::read_to_string(run.join("config.toml")).unwrap_or_default();
    let method = config.split("[peft]").nth(1).and_then(|section| {
        let mut lines = section.lines().take_while(|line| !line.starts_with('['));
        lines.find_map(|line| line.strip_prefix("method = "))
    });
    let finished = run.join("final").is_dir();
    json!({
        "name": name,
        "method": method.map(|text| text.trim_matches('"')),
        "step": last("step"),
        "loss": last("loss"),
        "eval_loss": last("eval_loss"),
        "state": if finished { "finished" } else { "not finished" },
        "report": run.join("report.html").is_file(),
    })
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The metrics of a run, line by line as they come.
pub struct Metrics {
    path: PathBuf,
    at: u64,
    rest: Vec<u8>,
}

impl Metrics {
    pub fn of(run: &Path) -> Self {
        Self {
            path: run.join(METRICS),
            at: 0,
            rest: Vec::new(),
        }
    }

    /// Whole lines of JSON since the last call. A file that became shorter, as when a run begins anew, is read from its beginning.
    pub fn next(&mut self) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < self.at {
            (self.at, self.rest) = (0, Vec::new());
        }
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.take(PIECE).read_to_end(&mut self.rest)?;
        self.at += read as u64;
        let end = self
            .rest
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        let text = String::from_utf8_lossy(&whole);
        let json = |line: &&str| serde_json::from_str::<Value>(line).is_ok();
        Ok(text.lines().filter(json).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_listed_and_followed() {
        let root = std::env::temp_dir().join(format!("ft-serve-runs-{}", std::process::id()));
        let run = root.join("one");
        fs::create_dir_all(run.join("final")).unwrap();
        fs::create_dir_all(root.join("no run")).unwrap();
        let log = run.join(METRICS);
        fs::write(&log, "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"eval_loss\":1.5}\n{\"st").unwrap();
        fs::write(run.join("config.toml"), "[model]\n[peft]\nmethod = \"lora\"\n[data]\n").unwrap();

        let listed = list(&root).unwrap();
        assert_eq!(
            listed,
            [
                json!({"name": "one", "method": "lora", "step": 2, "loss": 2.5, "eval_loss": 1.5, "state": "finished", "report": false})
            ]
        );
        for name in ["", "..", ".", "one/../one", "no run", "a\\b", "absent"] {
            assert!(folder(&root, name).is_none(), "{name}");
        }
        let mut metrics = Metrics::of(&folder(&root, "one").unwrap());
        assert_eq!(
            metrics.next().unwrap(),
            ["{\"step\":1,\"loss\":2.5}", "{\"step\":2,\"eval_loss\":1.5}"]
        );
        assert!(metrics.next().unwrap().is_empty());
        fs::write(
            &log,
            "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"eval_loss\":1.5}\n{\"step\":3}\nnot JSON\n",
        )
        .unwrap();
        assert_eq!(metrics.next().unwrap(), ["{\"step\":3}"]);
        fs::write(&log, "{\"step\":1}\n").unwrap();
        assert_eq!(metrics.next().unwrap(), ["{\"step\":1}"]);
        fs::remove_dir_all(root).unwrap();
    }
}
