//! `ft adapters`: what can be done with adapters.

mod convert;

use std::path::PathBuf;
use std::str::FromStr;

use burn::tensor::Device;
use clap::{Subcommand, ValueEnum};
use ft_peft::plain::{Combination, MajoritySign, Method, PlainLora, combine};
use serde_json::json;

use crate::failure::{Context, Failure};
use crate::{locate, output};

/// Combine adapters, or convert one
#[derive(clap::Args, Debug)]
pub struct Adapters {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Combine(Combine),
    Convert(convert::Convert),
}

impl Adapters {
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Combine(combine) => combine.run(),
            What::Convert(convert) => convert.run(),
        }
    }
}

/// Make one LoRA adapter of several, as PEFT's add_weighted_adapter does
#[derive(clap::Args, Debug)]
struct Combine {
    /// Adapter folders or runs, each with its weight: runs/a:0.7 runs/b:-0.3 (1 when left out)
    #[arg(value_name = "ADAPTER[:WEIGHT]", required = true)]
    adapters: Vec<Weighted>,
    /// How: cat (exact, the ranks add up), svd (the best of one rank), linear, ties, dare_linear, dare_ties, magnitude_prune;
    /// the last five work on A and B apart, and with _svd behind their name on the products
    #[arg(long, value_name = "METHOD", default_value = "cat")]
    method: Way,
    /// Share of the values that ties, dare and magnitude_prune keep
    #[arg(long, value_name = "D", default_value_t = 0.5, allow_negative_numbers = true)]
    density: f64,
    /// Rank of the result of svd and the _svd methods; the largest of the adapters when left out
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// How ties elects a sign: by the sum of the values, or by their number
    #[arg(long, value_name = "HOW", default_value = "total")]
    majority_sign: Majority,
    /// Seed of what dare drops
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Folder to write; it must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// An adapter and its weight.
#[derive(Clone, Debug, PartialEq)]
struct Weighted {
    path: PathBuf,
    weight: f64,
}

impl FromStr for Weighted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, weight) = match text.rsplit_once(':') {
            Some((path, weight)) if !path.is_empty() && weight.parse::<f64>().is_ok() => (path, weight),
            _ => (text, "1"),
        };
        let weight = weight.parse::<f64>().map_err(|e| e.to_string())?;
        Ok(Self {
            path: path.into(),
            weight,
        })
    }
}

/// A method by PEFT's name of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Way {
    method: Method,
    svd: bool,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, svd) = match text.strip_suffix("_svd") {
            Some(name) => (name, true),
            None => (text, text == "svd"),
        };
        let method = match name {
            "linear" | "svd" => Method::Linear,
            "cat" => Method::Cat,
            "ties" => Method::Ties,
            "dare_linear" => Method::DareLinear,
            "dare_ties" => Method::DareTies,
            "magnitude_prune" => Method::MagnitudePrune,
            _ => {
                return Err("cat, svd, linear, ties, dare_linear, dare_ties, magnitude_prune, or one of the last four with _svd".into());
            }
        };
        Ok(Self { method, svd })
    }
}

/// How ties elects a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Majority {
    Total,
    Frequency,
}

impl Combine {
    fn run(self) -> Result<(), Failure> {
        if self.out.exists() {
            let out = self.out.display();
            return Err(Failure::wrong_use(format!("--out {out}: exists already")));
        }
        let read = |adapter: &Weighted| {
            let folder = locate::adapter_folder(&adapter.path)?;
            Ok::<_, Failure>((PlainLora::read(&folder, &Device::flex())?, adapter.weight))
        };
        let adapters = self.adapters.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let how = Combination {
            method: self.method.method,
            svd: self.method.svd,
            rank: self.rank,
            density: self.density,
            majority_sign: match self.majority_sign {
                Majority::Total => MajoritySign::Total,
                Majority::Frequency => MajoritySign::Frequency,
            },
            seed: self.seed,
        };
        let combined = combine(&adapters, &how)?;
        combined.write(&self.out).context(self.out.display())?;
        let (places, rank, out) = (combined.pairs.len(), combined.rank(), self.out.display());
        match self.json {
            true => output::json(&json!({ "out": self.out, "places": places, "rank": rank })),
            false => output::write(&format!("combined into {out}: {places} modules of rank {rank}\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_stands_after_the_last_colon() {
        let parse = |text: &str| text.parse::<Weighted>().unwrap();
        let path = |path: &str, weight| Weighted {
            path: path.into(),
            weight,
        };
        assert_eq!(parse("runs/a:0.7"), path("runs/a", 0.7));
        assert_eq!(parse("a:-2"), path("a", -2.0));
        assert_eq!(parse("C:/runs"), path("C:/runs", 1.0));
    }

    #[test]
    fn methods_have_the_names_of_peft() {
        let way = |text: &str| text.parse::<Way>().map(|way| (way.method, way.svd));
        assert_eq!(way("svd"), Ok((Method::Linear, true)));
        assert_eq!(way("ties_svd"), Ok((Method::Ties, true)));
        assert_eq!(way("dare_ties"), Ok((Method::DareTies, false)));
        assert!(way("average").is_err());
    }
}
