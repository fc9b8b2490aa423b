//! Which modules of a model a method acts on, with PEFT's matching rules.

use std::fmt;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attach::ModuleSpec;
use crate::error::{Error, Result};

/// How modules are named: a list of path suffixes, or a word or regular expression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Targets {
    /// `"all-linear"` (every projection but the output head), `"all"` (every module), or a regular expression that must
    /// match a whole path.
    Pattern(String),
    /// A path matches when it equals an entry or ends in `.entry`.
    Suffixes(Vec<String>),
}

impl Targets {
    /// Every projection but the output head.
    pub fn all_linear() -> Self {
        Targets::Pattern("all-linear".into())
    }

    /// Every module.
    pub fn all() -> Self {
        Targets::Pattern("all".into())
    }

    /// Paths that end in one of these.
    pub fn suffixes(list: &[&str]) -> Self {
        Targets::Suffixes(list.iter().map(|suffix| suffix.to_string()).collect())
    }

    /// Whether a path is named, words such as `"all-linear"` apart.
    pub(crate) fn names(&self, path: &str) -> Result<bool> {
        Ok(match self {
            Targets::Suffixes(list) => list.iter().any(|suffix| has_suffix(path, suffix)),
            Targets::Pattern(_) => self.regex()?.is_some_and(|regex| regex.is_match(path)),
        })
    }

    fn regex(&self) -> Result<Option<Regex>> {
        match self {
            Targets::Pattern(word) if word != "all-linear" && word != "all" => {
                let regex = Regex::new(&format!("^(?:{word})$"));
                regex.map(Some).map_err(|e| Error::Config {
                    key: "peft.targets".into(),
                    why: e.to_string(),
                })
            }
            _ => Ok(None),
        }
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Targets::Pattern(pattern) => write!(f, "\"{pattern}\""),
            Targets::Suffixes(list) => write!(f, "{list:?}"),
        }
    }
}

/// Layer numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Layers {
    /// Exactly these.
    List(Vec<usize>),
    /// Half-open range: `"4..12"`, `"..4"`, `"20.."`.
    Range(String),
}

impl Layers {
    fn contains(&self, layer: usize) -> Result<bool> {
        match self {
            Layers::List(list) => Ok(list.contains(&layer)),
            Layers::Range(text) => {
                let (from, to) = parse_range(text).ok_or_else(|| Error::Config {
                    key: "peft.layers".into(),
                    why: format!("\"{text}\" is not a range such as \"4..12\", \"..4\" or \"20..\""),
                })?;
                Ok((from..to).contains(&layer))
            }
        }
    }
}

fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (from, to) = text.split_once("..")?;
    let bound = |part: &str, open| {
        if part.is_empty() {
            Some(open)
        } else {
            part.trim().parse().ok()
        }
    };
    Some((bound(from, 0)?, bound(to, usize::MAX)?))
}

/// The kind of module a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A linear layer inside the model.
    Linear,
    /// A linear layer that chooses experts, which is no part of `"all-linear"`.
    Router,
    /// The output head, with a weight of its own.
    Head,
    /// The output head while it is the embedding table; adapting it by name gives it a weight of its own.
    TiedHead,
    /// A part of a head beside the language model, which trains whatever the method.
    TaskHead,
    /// An embedding table.
    Embedding,
    /// A normalization.
    Norm,
    /// A bias alone.
    Bias,
    /// Another vector of the checkpoint.
    Vector,
    /// A convolution of each channel by itself.
    Convolution,
    /// How fast the heads of a linear attention forget.
    Gates,
    /// Where a sub-layer's output joins the residual stream: no checkpoint tensor, and not to be named as a target.
    Residual,
    /// The attention of all layers: no checkpoint tensor, and not to be named as a target.
    Attention,
}

/// A resolved choice of modules.
#[derive(Clone, Copy, Debug)]
pub struct Selector<'a> {
    /// What to take.
    pub targets: &'a Targets,
    /// Suffixes to leave out of it.
    pub exclude: &'a [String],
    /// Layers to stay within.
    pub layers: Option<&'a Layers>,
}

impl Selector<'_> {
    /// The selected ones among `specs`, in their order; none is an error that lists the nearest paths.
    pub fn select(&self, specs: &[ModuleSpec]) -> Result<Vec<String>> {
        let pattern = self.targets.regex()?;
        let mut chosen = Vec::new();
        for ModuleSpec { path, kind, .. } in named(specs) {
            let named = match (self.targets, &pattern) {
                (Targets::Suffixes(list), _) => list.iter().any(|suffix| has_suffix(path, suffix)),
                (_, Some(regex)) => regex.is_match(path),
                (Targets::Pattern(word), None) => *kind == Kind::Linear || (word == "all" && *kind != Kind::TiedHead),
            };
            let in_layers = match (self.layers, layer_number(path)) {
                (None, _) => true,
                (Some(layers), Some(layer)) => layers.contains(layer)?,
                (Some(_), None) => false,
            };
            if named && in_layers && !self.exclude.iter().any(|suffix| has_suffix(path, suffix)) {
                chosen.push(path.clone());
            }
        }
        if chosen.is_empty() {
            return Err(self.no_target(specs));
        }
        Ok(chosen)
    }

    fn no_target(&self, specs: &[ModuleSpec]) -> Error {
        let wanted = match self.targets {
            Targets::Pattern(word) => word.as_str(),
            Targets::Suffixes(list) => list.first().map_or("", String::as_str),
        };
        Error::NoTarget {
            targets: self.targets.to_string(),
            nearest: nearest(wanted, named(specs).map(|p| p.path.as_str())),
        }
    }
}

/// The modules that hold tensors of the checkpoint, which are those that targets can name.
pub(crate) fn named(specs: &[ModuleSpec]) -> impl Iterator<Item = &ModuleSpec> {
    let none = [Kind::Residual, Kind::Attention];
    specs.iter().filter(move |spec| !none.contains(&spec.kind))
}

/// Whether `path` is `suffix` or ends in it at a dot.
pub fn has_suffix(path: &str, suffix: &str) -> bool {
    path.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The first integer among the components of `path`.
pub fn layer_number(path: &str) -> Option<usize> {
    path.split('.').find_map(|part| part.parse().ok())
}

/// Up to five of `paths`, those spelled most like `wanted` first, layers told apart only once.
pub fn nearest<'p>(wanted: &str, paths: impl Iterator<Item = &'p str>) -> Vec<String> {
    let mut seen = Vec::new();
    let mut scored: Vec<(usize, &str)> = Vec::new();
    for path in paths {
        let shape: Vec<&str> = path
            .split('.')
            .map(|p| if p.parse::<usize>().is_ok() { "#" } else { p })
            .collect();
        if seen.contains(&shape) {
            continue;
        }
        let tail = shape
            .iter()
            .rev()
            .take(wanted.split('.').count())
            .rev()
            .copied()
            .collect::<Vec<_>>()
            .join(".");
        scored.push((strsim::levenshtein(wanted, &tail), path));
        seen.push(shape);
    }
    scored.sort_by_key(|(distance, _)| *distance);
    scored.into_iter().take(5).map(|(_, path)| path.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [(&str, Kind); 6] = [
        ("model.embed_tokens", Kind::Embedding),
        ("model.layers.0.self_attn.q_proj", Kind::Linear),
        ("model.layers.1.self_attn.q_proj", Kind::Linear),
        ("model.layers.1.mlp.up_proj", Kind::Linear),
        ("model.norm", Kind::Norm),
        ("lm_head", Kind::TiedHead),
    ];

    fn select(targets: Targets, exclude: &[&str], layers: Option<Layers>) -> Result<Vec<String>> {
        let exclude: Vec<String> = exclude.iter().map(|s| s.to_string()).collect();
        let spec = |(path, kind): (&str, Kind)| ModuleSpec {
            path: path.into(),
            kind,
            dims: [8, 8],
            bias: false,
        };
        let specs = PLACES.map(spec);
        Selector {
            targets: &targets,
            exclude: &exclude,
            layers: layers.as_ref(),
        }
        .select(&specs)
    }

    fn suffixes(list: &[&str]) -> Targets {
        Targets::Suffixes(list.iter().map(|s| s.to_string()).collect())
    }

    #[test]
    fn a_suffix_matches_whole_components_only() {
        let found = select(suffixes(&["q_proj"]), &[], None).unwrap();
        assert_eq!(
            found,
            ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
        );
        assert!(select(suffixes(&["proj"]), &[], None).is_err());
        assert_eq!(select(suffixes(&["lm_head"]), &[], None).unwrap(), ["lm_head"]);
    }

    #[test]
    fn a_pattern_must_match_the_whole_path() {
        let pattern = |text: &str| Targets::Pattern(text.into());
        assert_eq!(
            select(pattern(r".*\.1\..*q_proj"), &[], None).unwrap(),
            ["model.layers.1.self_attn.q_proj"]
        );
        assert!(select(pattern("q_proj"), &[], None).is_err());
        let error = select(pattern("(q_proj"), &[], None).unwrap_err().to_string();
        assert!(error.starts_with("peft.targets"), "{error}");
    }

    #[test]
    fn words_leave_out_the_head_while_it_is_tied() {
        assert_eq!(select(Targets::all_linear(), &[], None).unwrap().len(), 3);
        assert_eq!(select(Targets::all(), &[], None).unwrap().len(), 5);
    }

    #[test]
    fn layers_and_excludes_narrow_the_choice() {
        let range = |text: &str| Some(Layers::Range(text.into()));
        assert_eq!(
            select(Targets::all_linear(), &["up_proj"], range("1..")).unwrap(),
            ["model.layers.1.self_attn.q_proj"]
        );
        assert_eq!(
            select(Targets::all_linear(), &[], Some(Layers::List(vec![0])))
                .unwrap()
                .len(),
            1
        );
        let error = select(Targets::all_linear(), &[], range("one"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"one\" is not a range"), "{error}");
    }

    #[test]
    fn the_nearest_paths_stand_for_their_kind_once() {
        let near = nearest("q_porj", PLACES.iter().map(|spec| spec.0));
        assert_eq!(near[0], "model.layers.0.self_attn.q_proj");
        assert_eq!(near.iter().filter(|path| path.ends_with("q_proj")).count(), 1);
    }
}
