//! Reads the trace of the null driver; its format is in `xtask/null-cuda/src/trace.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// What a stretch of the trace holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Launches by kernel, without the hash that tells its instances apart.
    pub launches: BTreeMap<String, usize>,
    /// Copies to the device, and their bytes.
    pub uploads: [usize; 2],
    /// Copies to the host, and their bytes.
    pub reads: [usize; 2],
    /// Times that the host waited.
    pub waits: usize,
    /// Allocations of the driver.
    pub allocations: usize,
    /// Kernels that were loaded.
    pub loads: usize,
}

impl Counts {
    pub fn launched(&self) -> usize {
        self.launches.values().sum()
    }

    fn add(&mut self, line: &Value) {
        let bytes = line["bytes"].as_u64().unwrap_or(0) as usize;
        match line["op"].as_str().unwrap_or_default() {
            "launch" => {
                *self
                    .launches
                    .entry(base(line["kernel"].as_str().unwrap_or_default()).into())
                    .or_default() += 1
            }
            "htod" => self.uploads = [self.uploads[0] + 1, self.uploads[1] + bytes],
            "dtoh" => self.reads = [self.reads[0] + 1, self.reads[1] + bytes],
            "sync" => self.waits += 1,
            "alloc" => self.allocations += 1,
            "load" => self.loads += 1,
            _ => {}
        }
    }
}

/// A run: what came before the first step, every step, and the most device memory that was allocated at a time.
#[derive(Debug, Default)]
pub struct Trace {
    pub before: Counts,
    pub steps: Vec<Counts>,
    pub peak: u64,
    /// Largest shared memory that a kernel was launched with, by its full name.
    pub shared: BTreeMap<String, u64>,
}

impl Trace {
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut trace = Self::default();
        let mut inside = false;
        for (number, line) in text.lines().enumerate() {
            let line: Value = serde_json::from_str(line).map_err(|e| format!("line {}: {e}", number + 1))?;
            trace.peak = trace
                .peak
                .max(line["peak"].as_u64().unwrap_or(0) * u64::from(line["op"] == "alloc"));
            if line["op"] == "launch" {
                let shared = trace
                    .shared
                    .entry(line["kernel"].as_str().unwrap_or_default().into())
                    .or_default();
                *shared = line["shared"].as_u64().unwrap_or(0).max(*shared);
            }
            match (line["op"].as_str(), line["step"].as_str()) {
                (Some("mark"), Some("begin")) => {
                    trace.steps.push(Counts::default());
                    inside = true;
                }
                (Some("mark"), _) => inside = false,
                _ => match trace.steps.last_mut() {
                    Some(step) if inside => step.add(&line),
                    None => trace.before.add(&line),
                    _ => {}
                },
            }
        }
        Ok(trace)
    }
}

/// The name of a kernel without the eight digits that CubeCL puts behind it.
pub fn base(name: &str) -> &str {
    match name.rsplit_once('_') {
        Some((base, hash)) if hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => base,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_between_their_marks() {
        let text = [
            r#"{"t":1,"op":"alloc","bytes":64,"used":64,"peak":64}"#,
            r#"{"op":"mark","step":"begin"}"#,
            r#"{"t":2,"op":"launch","kernel":"fill_f32_0a1b2c3d","grid":[1,1,1],"block":[32,1,1],"shared":128}"#,
            r#"{"t":2,"op":"launch","kernel":"fill_f32_99999999","grid":[1,1,1],"block":[32,1,1],"shared":0}"#,
            r#"{"t":3,"op":"sync","what":"stream"}"#,
            r#"{"op":"mark","step":"end"}"#,
            r#"{"t":4,"op":"dtoh","bytes":4}"#,
            r#"{"op":"mark","step":"begin"}"#,
            r#"{"t":4,"op":"dtoh","bytes":8}"#,
            r#"{"op":"mark","step":"end"}"#,
        ];
        let trace = Trace::parse(&text.join("\n")).unwrap();
        assert_eq!((trace.before.allocations, trace.peak, trace.steps.len()), (1, 64, 2));
        assert_eq!(trace.steps[0].launches, BTreeMap::from([("fill_f32".into(), 2)]));
        assert_eq!((trace.steps[0].waits, trace.steps[0].reads), (1, [0, 0]));
        assert_eq!(trace.steps[1].reads, [1, 8]);
        assert_eq!(trace.shared["fill_f32_0a1b2c3d"], 128);
        assert!(Trace::parse("{").unwrap_err().starts_with("line 1"));
    }

    #[test]
    fn a_hash_is_cut_off_and_nothing_else() {
        assert_eq!(base("swiglu_bf16_0a1b2c3d"), "swiglu_bf16");
        assert_eq!(base("swiglu_bf16"), "swiglu_bf16");
    }
}
