//! Columns that say what people thought of an answer. Where every answer is learned, they must not be overlooked.

use serde_json::Value;

use super::{Examples, Format, boolean};
use crate::error::Flaw;
use crate::map::Fields;

/// Columns that call an answer good or bad.
pub(crate) const LABELS: [&str; 2] = ["label", "kto_tag"];

/// Columns that may say how good an answer is, on a scale that cannot be known from outside.
const SCORES: [&str; 2] = ["score", "rating"];

/// Takes out judgements that are not made: empty columns are left where files of different kinds were joined. An empty answer beside a
/// full one stays, as a pair that lacks one.
pub(crate) fn made(fields: &Fields) -> Fields {
    let missing = |name: &str| fields.get(name).is_none_or(Value::is_null);
    let no_pair = missing("chosen") && missing("rejected");
    let empty = |name: &str| match name {
        "chosen" | "rejected" => no_pair,
        _ => (LABELS.contains(&name) || SCORES.contains(&name)) && missing(name),
    };
    let kept = fields.iter().filter(|(name, _)| !empty(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Why records like this one are not taken for anything unless the format is named: something beside the answers says that not
/// all of them are to be learned.
pub(crate) fn near_miss(fields: &Fields) -> Option<String> {
    let has = |name: &str| fields.contains_key(name);
    let answers = ["messages", "conversations", "assistant", "completion", "output"]
        .into_iter()
        .find(|name| has(name))?;
    match (has("chosen"), has("rejected")) {
        (true, true) => return None,
        (false, false) => {}
        (chosen, _) => {
            let (there, missing) = if chosen {
                ("chosen", "rejected")
            } else {
                ("rejected", "chosen")
            };
            return Some(format!(
                "`{there}` stands beside `{answers}`, and there is no `{missing}`: name data.format if `{answers}` alone is to be \
                 learned, or give both for format \"preference\""
            ));
        }
    }
    if LABELS.iter().any(|name| has(name)) {
        return None;
    }
    let score = SCORES.into_iter().find(|name| has(name))?;
    Some(format!(
        "`{score}` stands beside `{answers}`: name data.format to learn every answer whatever its {score}, or leave the \
         bad ones out of the file, or make it a `label` (true or false) for objective.kind = \"kto\""
    ))
}

/// Refuses an answer that people called bad where a format would learn it.
pub(crate) fn disliked(format: &dyn Format, fields: &Fields) -> Result<(), Flaw> {
    // A text has no answer, and its label is a class of it.
    if format.examples() != Examples::Samples || format.name() == "text" {
        return Ok(());
    }
    let bad = |name: &str| fields.get(name).filter(|value| boolean(value) == Some(false));
    match LABELS.into_iter().find_map(|column| Some((column, bad(column)?))) {
        None => Ok(()),
        Some((column, value)) => Err(Flaw::Rated {
            column,
            value: value.to_string(),
            format: format.name(),
        }),
    }
}
