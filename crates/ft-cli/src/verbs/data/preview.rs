//! `ft data preview`: rendered samples, token by token, on the terminal or as an HTML page.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use ft_data::{
    Dataset, Files, Place, Preference, Preview, PreviewToken, Tokenizer, is_preview_page, load_samples, preview_page,
};
use serde_json::{Value, json};

use super::{Common, Opened, histogram};
use crate::failure::{Context, Failure};
use crate::output;

#[derive(clap::Args, Debug)]
pub struct PreviewArgs {
    #[command(flatten)]
    common: Common,
    /// How many samples to show [default: 3, on an HTML page 50]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Write an HTML page that needs nothing else: tokens coloured by what is learned, lengths, what was cut, packed rows
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Look at data.valid instead of data.train
    #[arg(long)]
    valid: bool,
}

impl PreviewArgs {
    pub fn run(self) -> Result<(), Failure> {
        let args = self;
        if let Some(path) = &args.html {
            may_write(path)?;
        }
        let Opened {
            section,
            tokenizer,
            config,
        } = args.common.open()?;
        let data = match args.valid {
            false => load_samples(section.train_files()?, &section, &tokenizer)?,
            true => match section.valid_files()? {
                Some(files) => load_samples(files, &section.held_out(), &tokenizer)?,
                None => return Err(Failure::wrong_use("--valid: the configuration has no data.valid")),
            },
        };
        for warning in data.warnings() {
            tracing::warn!("{warning}");
        }
        if let Some(path) = &args.html {
            let shown = args.samples.unwrap_or(50);
            let page = preview_page(&data, &section, &tokenizer, config.train.seed, shown);
            std::fs::write(path, page).context(path.display())?;
        }
        let shown = args.samples.unwrap_or(3);
        match (args.common.json, args.html) {
            (true, _) => output::json(&object(&data, shown, &tokenizer)),
            (false, None) => output::write(&page(&data, shown, &tokenizer, colour())),
            (false, Some(path)) => output::write(&format!("{}\n", path.display())),
        }
    }
}

/// A page may take the place of an earlier one, and of nothing else.
fn may_write(path: &Path) -> Result<(), Failure> {
    let ours = std::fs::read_to_string(path).is_ok_and(|text| is_preview_page(&text));
    match ours {
        true => Ok(()),
        false => output::must_not_exist(path),
    }
}

fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

fn object(data: &Dataset, shown: usize, tokenizer: &Tokenizer) -> Value {
    let sample = |(sample, place): (&ft_data::Sample, &Place)| {
        let preview = Preview::new(sample, tokenizer);
        let mut object = json!({ "place": place.at, "file": data.files.get(place.file as usize), "learned": preview.learned, "tokens": preview.tokens });
        match &sample.preference {
            Preference::None => {}
            Preference::Over(rejected) => object["rejected"] = json!(Preview::new(rejected, tokenizer)),
            Preference::Rated(good) => object["label"] = json!(good),
        }
        object
    };
    let samples: Vec<Value> = data.samples.iter().zip(&data.places).take(shown).map(sample).collect();
    json!({
        "file": Files::from(data.files.iter().map(PathBuf::from).collect::<Vec<_>>()),
        "format": data.format,
        "learned_share": share(data),
        "statistics": data.statistics,
        "warnings": data.statistics.warnings(),
        "samples": samples,
    })
}

fn share(data: &Dataset) -> f64 {
    data.statistics.learned as f64 / (data.statistics.tokens as f64).max(1.0)
}

fn page(data: &Dataset, shown: usize, tokenizer: &Tokenizer, colour: bool) -> String {
    let mut page = String::new();
    for (sample, place) in data.samples.iter().zip(&data.places).take(shown) {
        let preview = Preview::new(sample, tokenizer);
        let place = match data.files.len() {
            1 => place.at.to_string(),
            _ => place.among(&data.files),
        };
        let told = match &sample.preference {
            Preference::None => "",
            Preference::Over(_) => ", chosen",
            Preference::Rated(true) => ", rated good",
            Preference::Rated(false) => ", rated bad",
        };
        page += &format!("{place}: {} tokens, {} learned{told}\n", sample.len(), preview.learned);
        page += &format!("{}\n\n", marked(&preview.tokens, colour));
        if let Some(rejected) = sample.rejected() {
            let preview = Preview::new(rejected, tokenizer);
            page += &format!(
                "{place}: {} tokens, {} learned, rejected\n",
                rejected.len(),
                preview.learned
            );
            page += &format!("{}\n\n", marked(&preview.tokens, colour));
        }
    }
    let s = &data.statistics;
    let files = Files::from(data.files.iter().map(PathBuf::from).collect::<Vec<_>>());
    page += &format!("{files} as {}\n", data.format.as_str());
    page += &format!("samples  {}\n", output::count(s.samples as u64));
    page += &format!(
        "tokens   {}, longest sample {}\n",
        output::count(s.tokens as u64),
        s.longest
    );
    page += &format!(
        "learned  {} ({:.1} %)\n",
        output::count(s.learned as u64),
        100.0 * share(data)
    );
    let stops: Vec<String> = s.stops.iter().map(|(token, n)| format!("{token} x {n}")).collect();
    page += &format!(
        "stops    {}\n",
        if stops.is_empty() {
            "none".into()
        } else {
            stops.join(", ")
        }
    );
    page + &histogram(&s.histogram)
}

/// Tokens divided by `|`, runs of learned ones between double brackets. Line breaks are written out.
fn marked(tokens: &[PreviewToken], colour: bool) -> String {
    let (open, close) = if colour {
        ("\x1b[32m[[", "]]\x1b[0m")
    } else {
        ("[[", "]]")
    };
    let runs = tokens.chunk_by(|a, b| a.learn == b.learn).map(|run| {
        let text = run
            .iter()
            .map(|t| t.text.replace('\n', "\\n"))
            .collect::<Vec<_>>()
            .join("|");
        if run[0].learn {
            format!("{open}{text}{close}")
        } else {
            text
        }
    });
    runs.collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_runs_stand_in_brackets() {
        let token = |text: &str, learn| PreviewToken {
            id: 0,
            text: text.into(),
            learn,
            special: false,
        };
        let tokens = [
            token("Q", false),
            token(":\n", false),
            token("yes", true),
            token("</s>", true),
        ];
        assert_eq!(marked(&tokens, false), "Q|:\\n|[[yes|</s>]]");
    }
}
