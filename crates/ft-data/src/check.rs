//! What is wrong, or worth knowing, about a data set before it is trained on: findings with file and line.

use serde::Serialize;

use crate::duplicates::{Repeat, exact_duplicates, leak_warning, leaks, text_of};
use crate::error::{Place, Result};
use crate::load::{Dataset, Fate};
use crate::minhash::near_duplicates;
use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

/// Places that are listed of a finding; the others are counted.
const LISTED: usize = 10;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Held-out prompts that are trained on.
    Leak,
    /// Records of which the cut at `max_length` left nothing to learn.
    NothingLearned,
    /// Samples that do not teach a token to stop with.
    NoStop,
    /// Samples that begin with two BOS tokens.
    DoubleBos,
    /// Answers that end in a token at which generation goes on.
    UnheededStop,
    /// Samples that are there twice.
    ExactDuplicate,
    /// Samples with nearly the same words.
    NearDuplicate,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// Whether it should not be.
    pub wrong: bool,
    /// How often.
    pub count: usize,
    /// A sentence about it.
    pub what: String,
    /// The first ten places.
    pub places: Vec<Spot>,
}

/// Where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spot {
    /// File and line of the record.
    pub at: String,
    /// Those of the record that it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
}

/// Looks for all of them; for near duplicates from the Jaccard similarity `near` on.
///
/// # Errors
/// As [`near_duplicates`].
pub fn check(
    train: &Dataset,
    held_out: Option<&Dataset>,
    near: Option<f64>,
    tokenizer: &Tokenizer,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some(held_out) = held_out {
        let found = leaks(&train.samples, &held_out.samples);
        let prompts = match held_out.format.as_str() {
            "text" => "texts",
            _ => "prompts",
        };
        let what = leak_warning(found.len(), held_out.samples.len(), prompts);
        findings.push(repeated(Kind::Leak, what, &found, held_out, train));
    }
    for (name, data) in [("training", Some(train)), ("held-out", held_out)] {
        if let Some(data) = data {
            findings.extend(single(name, data, tokenizer));
        }
    }
    let found = exact_duplicates(&train.samples);
    let what = format!(
        "{} training samples repeat an earlier one; `ft data dedup CONFIG --out FILE` writes the data without them",
        found.len()
    );
    findings.push(repeated(Kind::ExactDuplicate, what, &found, train, train));
    if let Some(threshold) = near {
        let exact: Vec<usize> = found.iter().map(|repeat| repeat.index).collect();
        let others: Vec<usize> = (0..train.samples.len())
            .filter(|i| exact.binary_search(i).is_err())
            .collect();
        let text = |i: &usize| text_of(std::slice::from_ref(&train.samples[*i]), tokenizer);
        let texts: Vec<_> = others.iter().map(text).collect();
        let found = near_duplicates(&texts, threshold)?;
        let place = |repeat: &Repeat| Repeat {
            index: others[repeat.index],
            of: others[repeat.of],
        };
        let found: Vec<Repeat> = found.iter().map(place).collect();
        let what = format!(
            "{} training samples are nearly an earlier one (Jaccard similarity {threshold} or more); `ft data dedup CONFIG --near \
             {threshold} --out FILE` writes the data without them",
            found.len()
        );
        findings.push(repeated(Kind::NearDuplicate, what, &found, train, train));
    }
    findings.retain(|finding| finding.count > 0);
    Ok(findings)
}

/// What samples show by themselves.
fn single(name: &str, data: &Dataset, tokenizer: &Tokenizer) -> Vec<Finding> {
    let finding = |kind, wrong, places: Vec<Place>, what: String| Finding {
        kind,
        wrong,
        count: places.len(),
        what: format!("{} {name} samples {what}", places.len()),
        places: places.iter().take(LISTED).map(|place| spot(place, data)).collect(),
    };
    let those = |test: &dyn Fn(&Sample) -> bool| -> Vec<Place> {
        let found = data.samples.iter().zip(&data.places).filter(|(sample, _)| test(sample));
        found.map(|(_, place)| *place).collect()
    };
    let ends = |sample: &Sample, test: &dyn Fn(u32) -> bool| sample.runs().any(|run| test(sample.ids[run.end - 1]));
    let no_stop = those(&|sample| !ends(sample, &|id| tokenizer.is_special(id)));
    let unheeded = |id| tokenizer.is_special(id) && !tokenizer.eos_ids().contains(&id);
    let twice = |sample: &Sample| {
        tokenizer
            .bos_id()
            .is_some_and(|bos| sample.ids.starts_with(&[bos, bos]))
    };
    // Some are cut; where none has a stop token, the model will never stop.
    let never = no_stop.len() == data.samples.len();
    vec![
        finding(
            Kind::NothingLearned,
            true,
            data.cut
                .iter()
                .filter(|(_, fate)| *fate == Fate::Emptied)
                .map(|(place, _)| *place)
                .collect(),
            "have nothing to learn after the cut at data.max_length; raise it".into(),
        ),
        finding(
            Kind::NoStop,
            never,
            no_stop,
            "do not teach a token to stop with; check the end-of-text token, the chat template and data.max_length"
                .into(),
        ),
        finding(
            Kind::DoubleBos,
            true,
            those(&twice),
            "begin with two BOS tokens; take the one in the text or in the chat template out".into(),
        ),
        finding(
            Kind::UnheededStop,
            false,
            those(&|sample| ends(sample, &unheeded)),
            format!(
                "end an answer in {}, at which generation does not stop",
                data.statistics.unheeded_stops.join(", ")
            ),
        ),
    ]
}

/// Samples of `data` that repeat some of `of`.
fn repeated(kind: Kind, what: String, found: &[Repeat], data: &Dataset, of: &Dataset) -> Finding {
    let spot = |repeat: &Repeat| Spot {
        same_as: Some(of.places[repeat.of].among(&of.files)),
        ..spot(&data.places[repeat.index], data)
    };
    Finding {
        kind,
        wrong: kind == Kind::Leak,
        count: found.len(),
        what,
        places: found.iter().take(LISTED).map(spot).collect(),
    }
}

fn spot(place: &Place, data: &Dataset) -> Spot {
    Spot {
        at: place.among(&data.files),
        same_as: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataConfig, Source, load_source};

    fn tokenizer() -> Tokenizer {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/chatml");
        Tokenizer::from_dir(folder.as_ref()).unwrap()
    }

    fn load(lines: &[(&str, &str)], max_length: usize) -> Dataset {
        let line = |(prompt, completion): &(&str, &str)| {
            serde_json::json!({"prompt": prompt, "completion": completion}).to_string() + "\n"
        };
        let text: String = lines.iter().map(line).collect();
        let source = Source::Memory {
            name: "x.jsonl",
            bytes: text.as_bytes(),
        };
        let mut config = DataConfig::new("x");
        config.max_length = max_length;
        load_source(source, &config, &tokenizer()).unwrap()
    }

    #[test]
    fn what_the_cut_empties_or_leaves_without_a_stop_is_named_by_its_line() {
        let long = "The cook tastes the soup and adds a little salt. ".repeat(4);
        let data = load(&[("a", "b"), (&long, "b"), ("a", &long)], 16);
        let found = check(&data, None, None, &tokenizer()).unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|f| (f.kind, f.wrong, f.count, f.places[0].at.as_str()))
            .collect();
        let expected = [
            (Kind::NothingLearned, true, 1, "x.jsonl:2"),
            (Kind::NoStop, false, 1, "x.jsonl:3"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn ten_places_are_listed_and_the_others_counted() {
        let data = load(&[("same", "answer"); 15], 64);
        let found = check(&data, Some(&data), Some(0.8), &tokenizer()).unwrap();
        let told: Vec<_> = found.iter().map(|f| (f.kind, f.count, f.places.len())).collect();
        assert_eq!(told, [(Kind::Leak, 15, 10), (Kind::ExactDuplicate, 14, 10)]);
        assert!(found[0].what.starts_with("15 of 15 held-out prompts are in"));
        assert_eq!(found[1].places[9].at, "x.jsonl:11");
        assert_eq!(found[1].places[9].same_as.as_deref(), Some("x.jsonl:1"));
    }
}
