//! Run folders of `ft train` below one folder: what they are called, how far they are, and their metrics as they are written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// What a run logs.
const METRICS: &str = "metrics.jsonl";
/// What a run that was started here leaves besides: its configuration as it was made, and what it said.
pub const START: &str = "start.toml";
pub const LOG: &str = "output.txt";
/// Bytes at the end of the metrics in which the newest figures are looked for.
const TAIL: u64 = 64 << 10;
/// Most bytes of the metrics that are read at once.
const PIECE: u64 = 1 << 20;

/// The runs of a folder, newest first; `states` of those that are known better than their files tell.
pub fn list(folder: &Path, states: &BTreeMap<String, &'static str>) -> io::Result<Vec<Value>> {
    let mut found: Vec<_> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| {
            let (name, path) = (entry.file_name().into_string().ok()?, entry.path());
            let written = match path.join(METRICS).metadata() {
                Ok(metrics) => metrics.modified().ok()?,
                // Nothing is logged yet.
                Err(_) if states.contains_key(&name) => path.metadata().ok()?.modified().ok()?,
                Err(_) => return None,
            };
            Some((written, name, path))
        })
        .collect();
    found.sort_by_key(|(written, ..)| std::cmp::Reverse(*written));
    let about = |(_, name, path): (_, String, PathBuf)| about(&name, &path, states.get(&name).copied());
    Ok(found.into_iter().map(about).collect())
}

/// Whether a folder is one of a run.
pub fn is_run(folder: &Path) -> bool {
    folder.join(METRICS).is_file()
}

/// The settings of a run by their dotted keys.
pub fn settings(run: &Path) -> Map<String, Value> {
    let text = fs::read_to_string(run.join("config.toml")).unwrap_or_default();
    let mut flat = Map::new();
    let table: toml::Table = text.parse().unwrap_or_default();
    for (section, value) in table {
        match value {
            toml::Value::Table(keys) => flat.extend(keys.into_iter().filter_map(|(key, value)| {
                let value = serde_json::to_value(value).ok()?;
                Some((format!("{section}.{key}"), value))
            })),
            value => flat.extend(serde_json::to_value(value).ok().map(|value| (section, value))),
        }
    }
    flat
}

/// The folder of a run; a name is no path.
pub fn folder(runs: &Path, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    let run = runs.join(name);
    (plain && (is_run(&run) || run.join(START).is_file())).then_some(run)
}

fn about(name: &str, run: &Path, state: Option<&'static str>) -> Value {
    let newest = tail(&run.join(METRICS)).unwrap_or_default();
    let lines: Vec<Value> = newest
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let last = |key: &str| {
        let mut values = lines.iter().rev().filter_map(|line| line.get(key));
        values.find(|value| !value.is_null()).cloned()
    };
    let settings = settings(run);
    let quant = settings.get("model.quant").and_then(|quant| quant.get("kind"));
    let finished = run.join("final").is_dir();
    json!({
        "name": name,
        "method": settings.get("peft.method"),
        "model": settings.get("model.path"),
        "quant": quant,
        "step": last("step"),
        "loss": last("loss"),
        "eval_loss": last("eval_loss"),
        "state": state.unwrap_or(if finished { "finished" } else { "not finished" }),
        "report": run.join("report.html").is_file(),
    })
}

/// The end of a text file.
pub fn tail(path: &Path) -> io::Result<String> {
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
        let mut file = match File::open(&self.path) {
            // A run that has not logged yet.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.path.parent().is_some_and(Path::is_dir) => {
                return Ok(Vec::new());
            }
            opened => opened?,
        };
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
        let config = "[model]\npath = 'm'\n[model.quant]\nkind = 'nf4'\n[peft]\nmethod = \"lora\"\n[data]\n";
        fs::write(run.join("config.toml"), config).unwrap();

        fs::create_dir_all(root.join("begun")).unwrap();
        let listed = list(&root, &BTreeMap::new()).unwrap();
        assert_eq!(
            listed,
            [
                json!({"name": "one", "method": "lora", "model": "m", "quant": "nf4", "step": 2, "loss": 2.5, "eval_loss": 1.5,
                    "state": "finished", "report": false})
            ]
        );
        let states = BTreeMap::from([("one".to_owned(), "running"), ("begun".to_owned(), "failed")]);
        let listed = list(&root, &states).unwrap();
        let state = |name: &str| listed.iter().find(|run| run["name"] == name).unwrap()["state"].clone();
        assert_eq!((state("one"), state("begun")), ("running".into(), "failed".into()));
        assert_eq!(settings(&run)["model.path"], "m");
        for name in ["", "..", ".", "one/../one", "begun", "a\\b", "absent"] {
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
