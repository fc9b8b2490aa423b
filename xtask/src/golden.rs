//! `cargo xtask golden`: lists the Python programs that made the committed fixtures, or runs them again.
//!
//! A generator is a `.py` file inside a `fixtures` folder. It takes no arguments, writes beside itself, and names
//! the versions it was run with in its opening comment. What follows `--` is handed to it: most know `--check`, which
//! compares and writes nothing. Tests never need Python; this is how a fixture is renewed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, shell, tidy};

pub fn run(args: &[String]) -> Outcome {
    let request = Request::parse(args)?;
    let root = shell::root();
    let generators = generators(&tidy::tracked(&root)?);
    if request.names.is_empty() && !request.all {
        for path in &generators {
            println!("{}", path.display());
        }
        eprintln!(
            "{} generators; run one with `cargo xtask golden --python PYTHON --run NAME`",
            generators.len()
        );
        return Ok(());
    }
    for path in request.pick(&generators)? {
        let folder = root.join(path.parent().unwrap_or(Path::new("")));
        let script = path.file_name().unwrap_or_default();
        shell::status(
            Command::new(&request.python)
                .current_dir(folder)
                .arg(script)
                .args(&request.rest),
        )?;
    }
    Ok(())
}

fn generators(files: &[PathBuf]) -> Vec<PathBuf> {
    let in_fixtures = |p: &Path| p.components().any(|c| c.as_os_str() == "fixtures");
    files
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "py") && in_fixtures(p))
        .cloned()
        .collect()
}

#[derive(Debug, Default, PartialEq)]
struct Request {
    python: String,
    names: Vec<String>,
    all: bool,
    rest: Vec<String>,
}

impl Request {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut request = Request {
            python: "python3".into(),
            ..Request::default()
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--python" => request.python = args.next().ok_or("--python wants an interpreter")?.clone(),
                "--run" => request.all = true,
                "--" => request.rest.extend(args.by_ref().cloned()),
                name if request.all && !name.starts_with('-') => request.names.push(name.into()),
                other => return Err(format!("unknown argument `{other}`")),
            }
        }
        request.all &= request.names.is_empty();
        Ok(request)
    }

    /// The generators whose path contains one of the names; all of them when none was named.
    fn pick<'a>(&self, generators: &'a [PathBuf]) -> Result<Vec<&'a PathBuf>, String> {
        let mut picked = Vec::new();
        for name in &self.names {
            let before = picked.len();
            picked.extend(
                generators
                    .iter()
                    .filter(|p| p.to_string_lossy().contains(name.as_str())),
            );
            if picked.len() == before {
                return Err(format!("no generator has `{name}` in its path"));
            }
        }
        Ok(if self.all { generators.iter().collect() } else { picked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(args: &[&str]) -> Result<Request, String> {
        Request::parse(&args.iter().map(|a| a.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn arguments() {
        let all = request(&["--python", "py", "--run"]).unwrap();
        assert_eq!((all.python.as_str(), all.names.len(), all.all), ("py", 0, true));
        let one = request(&["--run", "gpt2", "--", "--check"]).unwrap();
        assert_eq!((one.python.as_str(), one.all), ("python3", false));
        assert_eq!(
            (one.names, one.rest),
            (vec!["gpt2".to_string()], vec!["--check".to_string()])
        );
        assert!(request(&["gpt2"]).is_err());
        assert!(request(&["--python"]).is_err());
    }

    #[test]
    fn picks_by_part_of_the_path() {
        let files = [
            "tests/fixtures/a/make.py",
            "tests/fixtures/b/make.py",
            "benches/torch.py",
        ]
        .map(PathBuf::from);
        let found = generators(&files);
        assert_eq!(found.len(), 2);
        let one = request(&["--run", "fixtures/b"]).unwrap();
        assert_eq!(one.pick(&found).unwrap(), [&files[1]]);
        assert_eq!(request(&["--run"]).unwrap().pick(&found).unwrap().len(), 2);
        assert!(request(&["--run", "zzz"]).unwrap().pick(&found).is_err());
    }
}
