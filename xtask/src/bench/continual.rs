//! `cargo xtask bench continual [STRATEGY..]`: tasks one after the other on the embedded model, every strategy with LoRA and with full
//! fine-tuning, three orders of four tasks; mean and standard deviation of what is read off R. `--record` keeps the runs in
//! `benches/results/continual.jsonl` and writes what is made of them: the table and heat maps of the README and the guide. The test behind it
//! is ignored by default, because it takes minutes.

use super::ignored;
use crate::Outcome;

pub fn run(args: &[String]) -> Outcome {
    let Request {
        profile,
        names,
        settings,
        keep,
    } = Request::parse(args)?;
    let named = (!names.is_empty()).then(|| ("FT_BENCH_STRATEGIES", names.join(",")));
    let settings = settings.into_iter().chain(named).collect();
    ignored::bench(
        "continual_bench::bench",
        &profile,
        settings,
        keep.then_some("continual.jsonl"),
    )
}

/// Flags and what the test calls them.
const SETTINGS: [(&str, &str); 4] = [
    ("--steps", "FT_BENCH_STEPS"),
    ("--orders", "FT_BENCH_ORDERS"),
    ("--methods", "FT_BENCH_METHODS"),
    ("--set", "FT_BENCH_SET"),
];

struct Request {
    profile: String,
    names: Vec<String>,
    settings: Vec<(&'static str, String)>,
    keep: bool,
}

impl Request {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut request = Self {
            profile: "release".into(),
            names: Vec::new(),
            settings: Vec::new(),
            keep: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} wants a value"));
            let setting = SETTINGS.iter().find(|(flag, _)| flag == arg);
            match (setting, arg.as_str()) {
                (Some((_, name)), _) => request.settings.push((name, value()?)),
                (None, "--record") => request.keep = true,
                (None, "--profile") => request.profile = value()?,
                (None, flag) if flag.starts_with('-') => return Err(format!("unknown argument `{flag}`")),
                (None, name) => request.names.push(name.into()),
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_and_settings_are_told_apart() {
        let args = ["ewc", "--steps", "10", "--profile", "dev", "--record", "gem"].map(String::from);
        let request = Request::parse(&args).unwrap();
        assert_eq!(
            (request.names, request.profile.as_str()),
            (vec!["ewc".to_owned(), "gem".into()], "dev")
        );
        assert_eq!(request.settings, [("FT_BENCH_STEPS", "10".to_owned())]);
        assert!(request.keep);
        assert!(Request::parse(&["--step".to_owned()]).is_err());
        assert!(Request::parse(&["--steps".to_owned()]).is_err());
    }
}
