//! What the metrics leave open.

use std::fmt;

use crate::BleuTokenizer;

/// Choices of the text metrics. The default is each reference program's own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// How BLEU cuts text.
    pub tokenizer: BleuTokenizer,
    /// What BLEU does with an order of n-grams that has no match.
    pub smoothing: Smoothing,
    /// Whether BLEU and chrF take upper and lower case for the same.
    pub lowercase: bool,
    /// Whether ROUGE compares stems.
    pub stem: bool,
}

/// Smoothing of BLEU's precisions (Chen and Cherry 2014, "A systematic comparison of smoothing techniques for sentence-level BLEU").
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Smoothing {
    /// None: one order without a match makes the score 0.
    None,
    /// So many matches where there are none (method 1).
    Floor(f64),
    /// So many more n-grams and matches in every order but the first (method 2).
    AddK(f64),
    /// 1/2, 1/4, ... of a match in the first, second, ... order without one (method 3, mteval's).
    #[default]
    Exp,
}

impl Smoothing {
    /// sacreBLEU's names.
    pub const NAMES: [&str; 4] = ["exp", "floor", "add-k", "none"];

    /// The smoothing of that name, with sacreBLEU's default where no value is given.
    ///
    /// # Errors
    /// Says what is wrong: the name, a value that is not positive, a value for a method without one.
    pub fn new(name: &str, value: Option<f64>) -> Result<Self, String> {
        if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
            return Err(format!("the value of a smoothing is a positive number, not {value}"));
        }
        match (name, value) {
            ("floor", value) => Ok(Self::Floor(value.unwrap_or(0.1))),
            ("add-k", value) => Ok(Self::AddK(value.unwrap_or(1.0))),
            ("exp", None) => Ok(Self::Exp),
            ("none", None) => Ok(Self::None),
            ("exp" | "none", Some(_)) => Err(format!("smoothing {name} takes no value; floor and add-k do")),
            _ => Err(format!(
                "no smoothing {name:?}: choose among {}",
                Self::NAMES.join(", ")
            )),
        }
    }
}

/// As in sacreBLEU's signatures.
impl fmt::Display for Smoothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Floor(value) => write!(f, "floor[{value:.2}]"),
            Self::AddK(value) => write!(f, "add-k[{value:.2}]"),
            Self::Exp => f.write_str("exp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values() {
        for name in Smoothing::NAMES {
            assert!(Smoothing::new(name, None).unwrap().to_string().starts_with(name));
        }
        assert_eq!(Smoothing::new("floor", Some(0.25)).unwrap().to_string(), "floor[0.25]");
        for (name, value, says) in [
            ("exp", Some(1.0), "takes no value"),
            ("add-k", Some(-1.0), "positive"),
            ("floor", Some(f64::NAN), "positive"),
            ("laplace", None, "exp, floor, add-k, none"),
        ] {
            let error = Smoothing::new(name, value).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
