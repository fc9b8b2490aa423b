//! What can be wrong with the options of a run or with a saved optimizer state.

use std::fmt;

use burn::tensor::DType;

/// Everything this crate refuses, collected: one error names all problems found.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Options that are out of range or contradict each other.
    #[error("{}", lines(.0))]
    Options(Vec<Problem>),
    /// Saved tensors that do not belong to this model and optimizer.
    #[error("{what} does not fit this model:\n{}", lines(.mismatches))]
    Tensors {
        /// `optimizer state` or `parameters`.
        what: &'static str,
        /// In the order of the model, then of the file.
        mismatches: Vec<Mismatch>,
    },
}

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// One option that cannot be used as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted key as typed in the configuration: `optim.lr`.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "`{}` {}", self.key, self.message)
    }
}

/// One tensor that a saved file should hold differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The model needs it, the file lacks it.
    Missing(String),
    /// The file holds it, the model has no place for it.
    Unexpected(String),
    /// Another shape or element type than the model's.
    Form {
        /// Tensor name.
        name: String,
        /// What the model needs.
        expected: (Vec<usize>, DType),
        /// What the file holds.
        found: (Vec<usize>, DType),
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "missing tensor `{name}`"),
            Self::Unexpected(name) => write!(f, "unexpected tensor `{name}`"),
            Self::Form { name, expected, found } => {
                write!(
                    f,
                    "tensor `{name}` is {:?} {:?}, expected {:?} {:?}",
                    found.1, found.0, expected.1, expected.0
                )
            }
        }
    }
}

/// Fails when there is a problem.
pub(crate) fn none_of(problems: Vec<Problem>) -> Result<()> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Options(problems))
    }
}

fn lines<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

/// Collects the problems of one configuration section.
pub(crate) struct Problems {
    section: &'static str,
    list: Vec<Problem>,
}

impl Problems {
    pub fn of(section: &'static str) -> Self {
        Self {
            section,
            list: Vec::new(),
        }
    }

    /// Notes `message` about `key` unless `good`.
    pub fn unless(&mut self, good: bool, key: &str, message: impl FnOnce() -> String) {
        if !good {
            self.list.push(Problem {
                key: format!("{}.{key}", self.section),
                message: message(),
            });
        }
    }

    /// Notes a `value` outside `range` (NaN is outside every range).
    pub fn within(&mut self, value: f64, range: std::ops::RangeInclusive<f64>, key: &str) {
        self.unless(range.contains(&value) && value.is_finite(), key, || {
            format!("is {value}, expected {}", described(&range))
        });
    }

    /// Notes a `value` that is negative or no number.
    pub fn amount(&mut self, value: f64, key: &str) {
        self.within(value, 0.0..=f64::INFINITY, key);
    }

    /// Notes `values` that are not all in 0..1.
    pub fn shares(&mut self, values: &[f64], key: &str) {
        self.unless(values.iter().all(|b| (0.0..1.0).contains(b)), key, || {
            format!("is {values:?}, expected numbers of at least 0 and below 1")
        });
    }

    pub fn finish(self) -> Result<()> {
        none_of(self.list)
    }
}

fn described(range: &std::ops::RangeInclusive<f64>) -> String {
    if range.end().is_infinite() {
        format!("a number of at least {}", range.start())
    } else {
        format!("a number from {} to {}", range.start(), range.end())
    }
}
