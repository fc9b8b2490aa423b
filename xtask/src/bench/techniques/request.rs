//! What `cargo xtask bench` is asked for.

use std::path::{Path, PathBuf};

use super::catalog::{self, TECHNIQUES, Technique};
use super::{Ground, cores, set};
use crate::shell;

pub const EMBEDDED: &str = "configs/compare-embedded.toml";

#[derive(Debug)]
pub struct Request {
    pub profile: String,
    pub config: PathBuf,
    pub general: Option<PathBuf>,
    /// Names of techniques; all when none is named.
    pub names: Vec<String>,
    /// What `ft` gets besides.
    pub rest: Vec<String>,
    /// The task's metric among `eval.metrics`, where it has one.
    pub metric: Option<String>,
    pub seeds: u64,
    pub steps: u64,
    pub search_steps: u64,
    pub budget: Option<f64>,
    pub out: Option<PathBuf>,
    /// An interpreter with torch and PEFT, to be measured beside.
    pub python: Option<String>,
    jobs: Option<usize>,
    pub keep: bool,
}

impl Request {
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let mut request = Self {
            profile: "release".into(),
            config: EMBEDDED.into(),
            general: None,
            names: Vec::new(),
            rest: Vec::new(),
            metric: None,
            seeds: 3,
            steps: 250,
            search_steps: 80,
            budget: None,
            out: None,
            python: None,
            jobs: None,
            keep: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--record" => request.keep = true,
                "--profile" => request.profile = value()?,
                "--config" => request.config = value()?.into(),
                "--general" => request.general = Some(value()?.into()),
                "--out" => request.out = Some(value()?.into()),
                "--python" => request.python = Some(value()?),
                "--methods" => request.names.extend(value()?.split(',').map(str::to_owned)),
                "--metric" => request.metric = Some(value()?),
                "--seeds" => request.seeds = whole(arg, &value()?)?,
                "--steps" => request.steps = whole(arg, &value()?)?,
                "--search-steps" => request.search_steps = whole(arg, &value()?)?,
                "--jobs" => request.jobs = Some(whole(arg, &value()?)? as usize),
                "--budget" => {
                    let minutes = value()?.parse().ok().filter(|minutes| *minutes > 0.0);
                    request.budget = Some(minutes.ok_or("--budget wants minutes")?);
                }
                "--model" => request.rest.extend(set(&format!("model.path={}", value()?))),
                "--data" => request.rest.extend(set(&format!("data.train={}", value()?))),
                "--valid" => request.rest.extend(set(&format!("data.valid={}", value()?))),
                flag if flag.starts_with('-') => request.rest.extend([arg.clone(), value()?]),
                _ => request.names.push(arg.clone()),
            }
        }
        if request.is_embedded() && request.metric.is_none() {
            request.metric = Some("exact_match".into());
        }
        request.metric = request.metric.filter(|name| name != "loss");
        Ok(request)
    }

    fn is_embedded(&self) -> bool {
        self.config == Path::new(EMBEDDED)
    }

    pub fn ground(&self) -> Ground {
        let own = || shell::root().join("benches/general/embedded.jsonl");
        Ground {
            config: self.config.clone(),
            args: self.rest.clone(),
            general: self.general.clone().or_else(|| self.is_embedded().then(own)),
            steps: self.steps,
            search_steps: self.search_steps,
        }
    }

    /// Those named, and what they need.
    pub fn techniques(&self) -> Result<Vec<&'static Technique>, String> {
        if self.names.is_empty() {
            return Ok(TECHNIQUES.iter().collect());
        }
        let mut chosen: Vec<&'static Technique> = Vec::new();
        for name in &self.names {
            let Some(technique) = catalog::named(name) else {
                let all: Vec<&str> = TECHNIQUES.iter().map(|technique| technique.name).collect();
                return Err(format!("{name}: no such technique; there are {}", all.join(", ")));
            };
            for needed in technique.with_needs() {
                if !chosen.iter().any(|there| there.name == needed.name) {
                    chosen.push(needed);
                }
            }
        }
        Ok(chosen)
    }

    /// Runs at the same time: a model as small as the embedded one keeps one core busy and no more.
    pub fn jobs(&self) -> usize {
        let usual = if self.is_embedded() { cores() } else { 1 };
        self.jobs.unwrap_or(usual).clamp(1, cores())
    }
}

fn whole(flag: &str, value: &str) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{flag} wants a number above 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, String> {
        Request::parse(&text.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn names_and_flags_are_told_apart() {
        let request =
            parse("ia3 --methods vera,lora_paged --seeds 2 --model M --set train.batch_size=3 --metric loss --record")
                .unwrap();
        let names: Vec<&str> = request.techniques().unwrap().iter().map(|t| t.name).collect();
        assert_eq!(names, ["ia3", "vera", "lora", "lora_paged"]);
        assert_eq!(request.rest, ["--set", "model.path=M", "--set", "train.batch_size=3"]);
        assert_eq!((request.seeds, request.metric, request.keep), (2, None, true));
        let metric = |text: &str| parse(text).unwrap().metric;
        assert_eq!(metric("").as_deref(), Some("exact_match"));
        assert_eq!(metric("--config configs/compare-e2e.toml"), None);
        let own = parse("--general mine.jsonl").unwrap().ground().general;
        assert_eq!(
            own,
            Some("mine.jsonl".into()),
            "what was asked for, on the embedded model too"
        );
        for wrong in ["--seeds 0", "--seeds", "--budget x", "--steps -1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("lola").unwrap().techniques().unwrap_err().contains("qlora_nf4"));
    }
}
