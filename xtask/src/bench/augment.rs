//! `cargo xtask bench augment --model DIR --sst2 DIR --e2e DIR`: whether augmentation helps, three seeds of each operator on 500 and 5,000 rows.
//! `--record` keeps each run in `benches/results/augment.jsonl` once it is done, goes on where an earlier call was stopped, and writes the table
//! in the guide. The test behind it is ignored by default: it takes an hour, and a model and data from outside.

use super::ignored;
use crate::Outcome;

/// Flags and what the test calls them; all of them are needed.
const FOLDERS: [(&str, &str); 3] = [
    ("--model", "FT_BENCH_MODEL"),
    ("--sst2", "FT_BENCH_SST2"),
    ("--e2e", "FT_BENCH_E2E"),
];

pub fn run(args: &[String]) -> Outcome {
    let Request { profile, folders, keep } = Request::parse(args)?;
    ignored::bench(
        "augment_bench::bench",
        &profile,
        folders,
        keep.then_some("augment.jsonl"),
    )
}

struct Request {
    profile: String,
    folders: Vec<(&'static str, String)>,
    keep: bool,
}

impl Request {
    fn parse(args: &[String]) -> Result<Self, String> {
        let (mut profile, mut folders, mut keep) = ("release".to_owned(), Vec::new(), false);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} wants a value"));
            let folder = FOLDERS.iter().find(|(flag, _)| flag == arg);
            match (folder, arg.as_str()) {
                (Some((_, name)), _) => folders.push((*name, value()?)),
                (None, "--record") => keep = true,
                (None, "--profile") => profile = value()?,
                (None, other) => return Err(format!("unknown argument `{other}`")),
            }
        }
        match FOLDERS
            .iter()
            .find(|(_, name)| folders.iter().all(|(known, _)| known != name))
        {
            Some((flag, _)) => Err(format!("{flag} DIR is missing")),
            None => Ok(Self { profile, folders, keep }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_is_needed() {
        let parse = |text: &str| Request::parse(&text.split(' ').map(String::from).collect::<Vec<_>>());
        let request = parse("--model m --sst2 s --e2e e --record --profile dev").unwrap();
        assert_eq!(
            (request.folders.len(), request.profile.as_str(), request.keep),
            (3, "dev", true)
        );
        assert!(parse("--model m --sst2 s").is_err_and(|why| why.contains("--e2e DIR")));
        assert!(parse("--model").is_err_and(|why| why.contains("wants a value")));
        assert!(parse("--modle m").is_err_and(|why| why.contains("--modle")));
    }
}
