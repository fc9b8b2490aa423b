//! What training sees of a data set, as one HTML page with nothing to load and no script.
//!
//! Its size is bounded whatever the data: so many tokens are shown, each by so many characters, and so many places are named.

use std::fmt::Write;

use super::text::{escape, visible};
use super::{Preview, PreviewToken};
use crate::cache::passing;
use crate::config::DataConfig;
use crate::error::Place;
use crate::load::{Dataset, Fate};
use crate::pack::{Pack, pack_rows};
use crate::sample::{Preference, Sample};
use crate::sources::Files;
use crate::tokenizer::Tokenizer;

/// Tokens that are shown in all, and of one sample.
const TOKENS: usize = 20_000;
const TOKENS_OF_A_SAMPLE: usize = 4_000;

/// Packed rows that are shown.
const ROWS: usize = 4;

/// Places that are named of a list.
const PLACES: usize = 50;

/// By this a page is known for one of ours.
const MARK: &str = "<!doctype html><!-- ft data preview -->";

const STYLE: &str = include_str!("page.css");

/// A page of the first `shown` samples of `data`, read as `config` says, and of the first rows that packing makes of them with `seed`.
pub fn preview_page(data: &Dataset, config: &DataConfig, tokenizer: &Tokenizer, seed: u64, shown: usize) -> String {
    let mut page = Page {
        data,
        tokenizer,
        left: TOKENS,
        html: String::new(),
    };
    page.facts();
    page.lengths();
    page.cut(config);
    page.samples(shown);
    page.rows(config, seed);
    let files = Files::from(data.files.iter().map(Into::into).collect::<Vec<_>>()).to_string();
    format!(
        "{MARK}\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{0}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{0}</h1>\n{1}</body></html>\n",
        escape(&files),
        page.html
    )
}

/// Whether `text` begins as such a page does.
pub fn is_preview_page(text: &str) -> bool {
    text.starts_with(MARK)
}

struct Page<'a> {
    data: &'a Dataset,
    tokenizer: &'a Tokenizer,
    /// Tokens that may still be shown.
    left: usize,
    html: String,
}

impl Page<'_> {
    fn line(&mut self, text: std::fmt::Arguments) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.html, "{text}");
    }

    fn facts(&mut self) {
        let statistics = &self.data.statistics;
        let share = 100.0 * statistics.learned as f64 / (statistics.tokens as f64).max(1.0);
        let stops: Vec<String> = statistics
            .stops
            .iter()
            .map(|(token, n)| format!("{} × {n}", escape(&visible(token))))
            .collect();
        let stops = if stops.is_empty() {
            "none".into()
        } else {
            stops.join(", ")
        };
        let rows = [
            ("format", self.data.format.as_str().to_owned()),
            ("records", statistics.counts.records.to_string()),
            ("samples", statistics.samples.to_string()),
            (
                "tokens",
                format!("{}, longest sample {}", statistics.tokens, statistics.longest),
            ),
            (
                "learned",
                format!(
                    "{} ({share:.1} %) <meter max=\"100\" value=\"{share:.1}\"></meter>",
                    statistics.learned
                ),
            ),
            ("learned stops", stops),
        ];
        self.line(format_args!("<table>"));
        for (name, value) in rows {
            self.line(format_args!("<tr><th>{name}</th><td>{value}</td></tr>"));
        }
        self.line(format_args!("</table>"));
        for warning in self.data.warnings() {
            self.line(format_args!("<p class=\"warning\">{}</p>", escape(&warning)));
        }
        self.line(format_args!(
            "<p class=\"key\"><span class=\"l\">learned</span> <span>context</span> <span class=\"s\">special</span> \
             <span class=\"l s\">special, learned</span></p>"
        ));
    }

    fn lengths(&mut self) {
        let bins = &self.data.statistics.histogram;
        let most = bins.iter().map(|bin| bin.samples).max().unwrap_or(0).max(1);
        self.line(format_args!("<h2>Lengths</h2>\n<table class=\"bars\">"));
        for bin in bins {
            let width = 100.0 * bin.samples as f64 / most as f64;
            self.line(format_args!(
                "<tr><th>up to {}</th><td class=\"n\">{}</td><td><div style=\"width:{width:.1}%\"></div></td></tr>",
                bin.up_to, bin.samples
            ));
        }
        self.line(format_args!("</table>"));
    }

    /// What is missing of the file, and where.
    fn cut(&mut self, config: &DataConfig) {
        let counts = self.data.statistics.counts;
        let limit = config.limit.unwrap_or(0);
        let max_length = config.max_length;
        let told = [
            (
                counts.limited,
                None,
                format!("Read up to data.limit = {limit}; what comes behind it was not read."),
            ),
            (
                counts.truncated > 0,
                Some(Fate::Truncated),
                format!(
                    "{} samples were cut at data.max_length = {max_length}; {} tokens went with the cuts of all samples.",
                    counts.truncated, counts.truncated_tokens
                ),
            ),
            (
                counts.emptied > 0,
                Some(Fate::Emptied),
                format!(
                    "{} samples were left out because the cut at data.max_length left nothing to learn.",
                    counts.emptied
                ),
            ),
            (
                counts.dropped > 0,
                Some(Fate::Dropped),
                format!(
                    "{} samples were left out as longer than data.max_length = {max_length} (data.overlong = \"drop\").",
                    counts.dropped
                ),
            ),
        ];
        self.line(format_args!("<h2>Cut and left out</h2>"));
        if told.iter().all(|(is, ..)| !is) {
            self.line(format_args!("<p>Nothing: every record is there in full.</p>"));
        }
        for (_, fate, what) in told.into_iter().filter(|(is, ..)| *is) {
            self.line(format_args!("<p>{what}</p>"));
            let places: Vec<Place> = self
                .data
                .cut
                .iter()
                .filter(|(_, f)| Some(*f) == fate)
                .map(|(p, _)| *p)
                .collect();
            if !places.is_empty() {
                self.places(&places);
            }
        }
    }

    fn places(&mut self, places: &[Place]) {
        let named: Vec<String> = places
            .iter()
            .take(PLACES)
            .map(|place| escape(&self.place(place)))
            .collect();
        let more = match places.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        self.line(format_args!("<p class=\"soft\">{}{more}</p>", named.join(", ")));
    }

    fn place(&self, place: &Place) -> String {
        match self.data.files.len() {
            1 => place.at.to_string(),
            _ => place.among(&self.data.files),
        }
    }

    fn samples(&mut self, shown: usize) {
        let data = self.data;
        self.line(format_args!("<h2>Samples</h2>"));
        for (sample, place) in data.samples.iter().zip(&data.places).take(shown) {
            if self.left == 0 {
                break;
            }
            let told = match &sample.preference {
                Preference::None => "",
                Preference::Over(_) => ", chosen",
                Preference::Rated(true) => ", rated good",
                Preference::Rated(false) => ", rated bad",
            };
            self.sample(sample, &format!("{}{told}", self.place(place)));
            if let Some(rejected) = sample.rejected() {
                self.sample(rejected, &format!("{}, rejected", self.place(place)));
            }
        }
        if data.samples.len() > shown || self.left == 0 {
            let (shown, all) = (shown.min(data.samples.len()), data.samples.len());
            self.line(format_args!(
                "<p class=\"soft\">The first {shown} of {all} samples, {TOKENS} tokens at most.</p>"
            ));
        }
    }

    fn sample(&mut self, sample: &Sample, title: &str) {
        let (tokens, learned) = (sample.len(), sample.target_tokens());
        self.line(format_args!(
            "<figure><figcaption>{}: {tokens} tokens, {learned} learned</figcaption><pre>",
            escape(title)
        ));
        self.tokens(sample);
        self.line(format_args!("</pre></figure>"));
    }

    /// As many tokens as may be shown.
    fn tokens(&mut self, sample: &Sample) {
        let preview = Preview::new(sample, self.tokenizer);
        let shown = preview.tokens.len().min(TOKENS_OF_A_SAMPLE).min(self.left);
        self.left -= shown;
        for token in &preview.tokens[..shown] {
            self.html.push_str(&span(token));
        }
        if shown < preview.tokens.len() {
            let more = preview.tokens.len() - shown;
            self.html.push_str(&format!("<em> … {more} more tokens</em>"));
        }
    }

    /// Packed rows, where there are any.
    fn rows(&mut self, config: &DataConfig, seed: u64) {
        let data = self.data;
        if config.pack == Pack::Off || passing(&data.samples).any(|sample| sample.rows() != 1) {
            return;
        }
        let lengths: Vec<usize> = passing(&data.samples).map(Sample::width).collect();
        let rows = pack_rows(&lengths, config.max_length, config.shuffle.then_some(seed));
        let cells = (rows.len() * config.max_length) as f64;
        let filled = 100.0 * data.statistics.tokens as f64 / cells.max(1.0);
        self.line(format_args!(
            "<h2>Packed rows</h2>\n<p>{} rows of {} tokens hold all samples, {filled:.1} % of their cells filled (data.pack = {}). The first of \
             them; a bar stands for a row, a part of it for a document, and no document sees another.</p>",
            rows.len(),
            config.max_length,
            escape(&config.pack.to_string())
        ));
        for row in rows.iter().take(ROWS) {
            let tokens: usize = row.iter().map(|i| lengths[*i]).sum();
            self.line(format_args!(
                "<figure><figcaption>{} documents, {tokens} tokens</figcaption><div class=\"row\">",
                row.len()
            ));
            for i in row {
                let width = 100.0 * lengths[*i] as f64 / config.max_length.max(tokens) as f64;
                let title = escape(&self.place(&data.places[*i]));
                self.line(format_args!(
                    "<div style=\"width:{width:.3}%\" title=\"{title}: {} tokens\"></div>",
                    lengths[*i]
                ));
            }
            self.line(format_args!("</div><pre>"));
            for i in row.iter().take_while(|_| self.left > 0).copied().collect::<Vec<_>>() {
                self.html
                    .push_str(&format!("<b>{}</b>", escape(&self.place(&data.places[i]))));
                self.tokens(&data.samples[i]);
                self.html.push('\n');
            }
            self.line(format_args!("</pre></figure>"));
        }
    }
}

/// A token with its id, coloured by what training does with it.
fn span(token: &PreviewToken) -> String {
    let class = match (token.learn, token.special) {
        (true, true) => " class=\"l s\"",
        (true, false) => " class=\"l\"",
        (false, true) => " class=\"s\"",
        (false, false) => "",
    };
    format!(
        "<span{class} title=\"{}\">{}</span>",
        token.id,
        escape(&visible(&token.text))
    )
}

#[cfg(test)]
mod tests;
