//! What can go wrong with a user's files, in words that name the file, the line and the fix.

use std::fmt;
use std::path::PathBuf;

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that concerns a whole file or setting. Errors of single records are [`Flaw`]s, collected in [`Error::Records`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file as a whole cannot be used.
    #[error("{file}: {what}")]
    File {
        /// Its name.
        file: String,
        /// The reason and the remedy.
        what: String,
    },
    /// No data files behind what names them.
    #[error("{0}")]
    Source(String),
    /// A key of the `[data]` section holds something unusable.
    #[error("data.{key}: {what}")]
    Config {
        /// The key, without the section.
        key: String,
        /// The reason and the remedy.
        what: String,
    },
    /// The chat template does not parse, or does not render a conversation.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer refused a text, or lacks what was asked of it.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The tokenizer or the chat template of a teacher that has its own.
    #[error("the teacher's {0}")]
    Teacher(Box<Error>),
    /// Records of a data file are unusable; the first [`MAX_FLAWS`] of them.
    #[error("{}", list_flaws(files, flaws, *more))]
    Records {
        /// The data files.
        files: Vec<String>,
        /// Where and what, in the order of the files.
        flaws: Vec<(Place, Flaw)>,
        /// Reading stopped early, so there may be more.
        more: bool,
    },
}

/// Reading stops once this many records were found unusable.
pub const MAX_FLAWS: usize = 20;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// Which file of several, from 0: an index into [`crate::Dataset::files`].
    pub file: u32,
    /// Where in it.
    #[serde(flatten)]
    pub at: At,
}

/// Where a record stands in its file. Counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// The line on which the record begins.
    Line(usize),
    /// The number of the record, in files whose lines mean nothing (JSON arrays).
    Record(usize),
}

impl Place {
    /// Its name beside that of its file: `data.jsonl:3`.
    pub fn among(&self, files: &[String]) -> String {
        let file = files.get(self.file as usize).map_or("?", String::as_str);
        match self.at {
            At::Line(n) => format!("{file}:{n}"),
            At::Record(n) => format!("{file}, record {n}"),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Line(n) => write!(f, "line {n}"),
            At::Record(n) => write!(f, "record {n}"),
        }
    }
}

/// Why one record cannot become a training sample.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Flaw {
    /// Bytes that are not UTF-8.
    #[error("not UTF-8 from byte {0} of the record on; save the file as UTF-8")]
    Utf8(usize),
    /// A JSON line that does not parse.
    #[error("invalid JSON at column {column}: {what}")]
    Json {
        /// Column in the line, from 1.
        column: usize,
        /// The parser's reason.
        what: String,
    },
    /// A record that is not a JSON object.
    #[error("expected an object with named columns, found {0}")]
    NotAnObject(&'static str),
    /// A CSV row with too few or too many fields.
    #[error("{found} fields where the header names {expected}; check the quoting")]
    Fields {
        /// Fields in the header.
        expected: usize,
        /// Fields in this row.
        found: usize,
    },
    /// A column that a format or `data.map` asks for is not there.
    #[error("no column `{column}`{}; the columns are: {}", did_you_mean(column, columns), columns.join(", "))]
    NoColumn {
        /// What was asked for.
        column: String,
        /// What there is.
        columns: Vec<String>,
    },
    /// A record that takes more memory than one may.
    #[error("takes more than {0} MiB, more than a record may take; cut it into several")]
    TooLarge(usize),
    /// A way into a column's value that is not there.
    #[error("`{path}`: {what}")]
    Path {
        /// The way, as `data.map` has it.
        path: String,
        /// Where it ends.
        what: String,
    },
    /// A column holds the wrong kind of value.
    #[error("`{column}` should be {expected}, found {found}")]
    Kind {
        /// The column.
        column: String,
        /// What the format wants.
        expected: &'static str,
        /// The kind of JSON value found.
        found: &'static str,
    },
    /// A message whose role or shape is not understood.
    #[error("message {index}: {what}")]
    Message {
        /// Which message, from 1.
        index: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The loss would cover no token of this record.
    #[error("nothing to learn: {0}")]
    NothingToLearn(&'static str),
    /// Tokens or segments that do not fit together.
    #[error("{0}")]
    Tokens(String),
    /// A preference that says nothing, or not enough.
    #[error("{0}")]
    Preference(String),
    /// A label that is none of those that are learned.
    #[error("{0}")]
    Label(String),
    /// A rating beside what would be learned whatever it says.
    #[error(
        "`{column}` is {value}, and format \"{format}\" would learn the answer all the same; leave data.format out (or set it to \"unpaired-preference\", with objective.kind = \"kto\"), or take the record out"
    )]
    Rated {
        /// The column.
        column: &'static str,
        /// Its value.
        value: String,
        /// The format that was named.
        format: &'static str,
    },
    /// Longer than `data.max_length`, under `overlong = "error"`.
    #[error("{tokens} tokens, and data.max_length is {max_length}; raise it, or set data.overlong to truncate or drop")]
    TooLong {
        /// Tokens of this sample.
        tokens: usize,
        /// The limit.
        max_length: usize,
    },
    /// The chat template failed on this conversation.
    #[error("the chat template failed: {0}")]
    Template(String),
    /// The chat template leaves out something that should be learned.
    #[error("message {index}: {what}")]
    NotRendered {
        /// Which message, from 1.
        index: usize,
        /// What the template does not do.
        what: &'static str,
    },
    /// A teacher with another tokenizer cannot be given this record.
    #[error("with the teacher's tokenizer and chat template: {0}")]
    Teacher(Box<Flaw>),
    /// A teacher's chat template makes other samples of it.
    #[error(
        "it makes {own} samples, and {theirs} with the teacher's chat template, which cannot be compared; give one answer per record, or take the record out"
    )]
    TeacherSamples {
        /// Samples of this record.
        own: usize,
        /// The same for the teacher.
        theirs: usize,
    },
    /// The tokenizer refused the text.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
}

/// `; did you mean ...?` when some candidate is close to `name`, else nothing.
pub(crate) fn did_you_mean<S: AsRef<str>>(name: &str, candidates: &[S]) -> String {
    let distance = |c: &&S| strsim::damerau_levenshtein(name, c.as_ref());
    match candidates.iter().min_by_key(distance) {
        Some(best) if distance(&best) <= 1 + name.chars().count() / 4 => {
            format!(" (did you mean `{}`?)", best.as_ref())
        }
        _ => String::new(),
    }
}

fn list_flaws(files: &[String], flaws: &[(Place, Flaw)], more: bool) -> String {
    let at = |place: &Place| place.among(files);
    if let [(place, flaw)] = flaws {
        return format!("{}: {flaw}", at(place));
    }
    let head = if more {
        format!("the first {} bad records", flaws.len())
    } else {
        format!("{} bad records", flaws.len())
    };
    // A wrong column or a wrong format is the same flaw in every record: it is told once.
    let mut told: Vec<(String, &Place, usize)> = Vec::new();
    for (place, flaw) in flaws {
        let flaw = flaw.to_string();
        match told.iter_mut().find(|(known, ..)| *known == flaw) {
            Some((.., others)) => *others += 1,
            None => told.push((flaw, place, 0)),
        }
    }
    let line = |(flaw, place, others): &(String, &Place, usize)| match others {
        0 => format!("\n  {}: {flaw}", at(place)),
        _ => format!("\n  {} and {others} more: {flaw}", at(place)),
    };
    let mut touched: Vec<u32> = flaws.iter().map(|(place, _)| place.file).collect();
    touched.dedup();
    let file = match touched.as_slice() {
        [one] => files.get(*one as usize).cloned().unwrap_or_default(),
        several => format!("{} files", several.len()),
    };
    format!("{file}: {head}:{}", told.iter().map(line).collect::<String>())
}

/// The kind of a JSON value, for messages.
pub(crate) fn kind(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
