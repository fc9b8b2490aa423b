//! LoRA adapters as pairs of matrices, read from PEFT folders without a model: what is exported and combined.

mod combine;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;

use crate::adapter::{self, PREFIX, TensorFile, WEIGHTS};
use crate::error::{Error, Result};
use crate::methods::lora::{BiasMode, Init, LoraConfig};
use crate::methods::{PeftConfig, PeftMethod};
use crate::peft_config::Target;
use crate::site::AttentionShape;

pub use combine::{Combination, MajoritySign, Method, combine};

/// A LoRA adapter that is nothing but `s B A` at each of its places.
#[derive(Clone, Debug)]
pub struct PlainLora {
    /// Folder or id of the base model, as its file names it.
    pub base_model: Option<String>,
    /// Whether the base stores its matrices `[in, out]`.
    pub fan_in_fan_out: bool,
    /// The matrices by checkpoint path (`model.layers.0.self_attn.q_proj`).
    pub places: BTreeMap<String, Pair>,
    /// `target_modules`, where a list of names means the places.
    modules: Option<Vec<String>>,
}

/// The adapter of one place: it adds `scale · b a` to the place's matrix.
#[derive(Clone, Debug)]
pub struct Pair {
    /// `[r, in]`; of an embedding table `[r, rows]`.
    pub a: Tensor<2>,
    /// `[out, r]`; of an embedding table `[hidden, r]`.
    pub b: Tensor<2>,
    /// s.
    pub scale: f64,
    /// Whether the place is an embedding table, whose matrix is `(b a)ᵀ`.
    pub embedding: bool,
}

impl Pair {
    /// r.
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.b.dims()[0], self.a.dims()[1]]
    }

    /// The same with the scale in `b`, and zeros up to `rank`.
    fn folded(&self, rank: usize) -> Self {
        let [out, inner] = self.dims();
        let (device, more) = (self.a.device(), rank - self.rank());
        let (mut a, mut b) = (self.a.clone(), self.b.clone().mul_scalar(self.scale));
        if more > 0 {
            a = Tensor::cat(vec![a, Tensor::zeros([more, inner], &device)], 0);
            b = Tensor::cat(vec![b, Tensor::zeros([out, more], &device)], 1);
        }
        Self {
            a,
            b,
            scale: 1.0,
            embedding: self.embedding,
        }
    }
}

impl PlainLora {
    /// Reads the adapter in `dir`.
    ///
    /// # Errors
    /// [`Error::NotPlain`] lists what it has beside two matrices per place: another method, DoRA, biases, whole modules.
    pub fn read(dir: &Path, device: &Device) -> Result<Self> {
        let config = adapter::read_config(dir)?;
        let lora = plain_config(&config).map_err(|reasons| Error::NotPlain {
            path: dir.into(),
            reasons,
        })?;
        let mut file = TensorFile::read(&dir.join(WEIGHTS))?;
        let mut tensors = std::mem::take(&mut file.tensors);
        let mut places = BTreeMap::new();
        let firsts: Vec<String> = tensors.keys().cloned().collect();
        for name in &firsts {
            let Some((path, second, embedding)) = partner(name) else {
                continue;
            };
            let (Some(a), Some(b)) = (tensors.remove(name), tensors.remove(&second)) else {
                file.mismatches.push(format!("{second}: missing from the file"));
                continue;
            };
            if embedding {
                tensors.remove(&format!("{PREFIX}{path}.base_layer.weight"));
            }
            match pair(lora, path, [a, b], embedding, device) {
                Ok(pair) => drop(places.insert(path.to_string(), pair)),
                Err(why) => file.mismatches.push(format!("{name}: {why}")),
            }
        }
        file.tensors = tensors;
        file.finish()?;
        let raw = adapter::raw_config(dir)?;
        Ok(Self {
            base_model: adapter::base_model(dir),
            fan_in_fan_out: raw.get("fan_in_fan_out").and_then(Value::as_bool).unwrap_or(false),
            modules: names(&raw, lora),
            places,
        })
    }

    /// The largest rank of a place.
    pub fn rank(&self) -> usize {
        self.places.values().map(Pair::rank).max().unwrap_or(0)
    }

    /// The same function with every scale in B and every place of one rank, so that a reader that knows a single rank and
    /// alpha for the whole file computes it: alpha = rank, scale 1.
    pub fn folded(&self) -> Self {
        let rank = self.rank();
        let places = self.places.iter();
        Self {
            places: places.map(|(path, pair)| (path.clone(), pair.folded(rank))).collect(),
            ..self.clone()
        }
    }

    /// Writes it into `dir` in PEFT's layout: [`folded`](Self::folded), so with one rank and alpha = rank.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let folded = self.folded();
        let (rank, paths) = (folded.rank(), folded.places.keys().cloned().collect::<Vec<_>>());
        let config = LoraConfig {
            rank,
            alpha: rank as f64,
            ..LoraConfig::default()
        };
        let target = Target {
            kept: &BTreeMap::new(),
            base_model: folded.base_model.as_deref().unwrap_or_default(),
            modules: folded.modules.as_ref().unwrap_or(&paths),
            paths: &paths,
            fan_in_fan_out: folded.fan_in_fan_out,
            shape: AttentionShape::default(),
        };
        let file = config.to_peft(&target).expect("LoRA has a file");
        let mut tensors = BTreeMap::new();
        for (path, pair) in &folded.places {
            let [a, b] = if pair.embedding { EMBEDDING } else { PROJECTION };
            tensors.insert(format!("{PREFIX}{path}.{a}"), pair.a.to_data());
            tensors.insert(format!("{PREFIX}{path}.{b}"), pair.b.to_data());
        }
        adapter::write_folder(dir, &file, WEIGHTS, &tensors)
    }
}

/// Names of A and B after a projection's path.
const PROJECTION: [&str; 2] = ["lora_A.weight", "lora_B.weight"];
/// Names of A and B after an embedding table's path.
const EMBEDDING: [&str; 2] = ["lora_embedding_A", "lora_embedding_B"];

/// The options of a LoRA without anything that two matrices per place cannot say, or what it has.
fn plain_config(config: &PeftConfig) -> std::result::Result<&LoraConfig, Vec<String>> {
    let PeftConfig::Lora(lora) = config else {
        return Err(vec![format!("its method is \"{}\", not LoRA", config.name())]);
    };
    let mut reasons = Vec::new();
    let mut refuse = |has: bool, why: &str| reasons.extend(has.then(|| why.to_string()));
    refuse(lora.dora, "DoRA (use_dora) trains magnitudes beside the matrices");
    refuse(lora.lora_bias, "lora_bias adds a vector beside the matrices");
    refuse(lora.bias != BiasMode::None, "bias trains biases of the base");
    refuse(
        matches!(lora.init, Init::Pissa | Init::Olora),
        "init_lora_weights moves the base weights, which the adapter then needs",
    );
    if !lora.modules_to_save.is_empty() {
        reasons.push(format!(
            "modules_to_save holds whole layers: {}",
            lora.modules_to_save.join(", ")
        ));
    }
    if reasons.is_empty() { Ok(lora) } else { Err(reasons) }
}

/// For the name of an A: its path, the name of its B, and whether it adapts an embedding table.
fn partner(name: &str) -> Option<(&str, String, bool)> {
    let rest = name.strip_prefix(PREFIX)?;
    [(PROJECTION, false), (EMBEDDING, true)]
        .into_iter()
        .find_map(|([a, b], embedding)| {
            let path = rest.strip_suffix(a)?.strip_suffix('.')?;
            Some((path, format!("{PREFIX}{path}.{b}"), embedding))
        })
}

fn pair(
    config: &LoraConfig,
    path: &str,
    [a, b]: [TensorData; 2],
    embedding: bool,
    device: &Device,
) -> std::result::Result<Pair, String> {
    let (&[rank, _], &[_, columns]) = (&*a.shape().to_vec(), &*b.shape().to_vec()) else {
        return Err("A and B must be matrices".into());
    };
    if rank != columns || rank != config.rank_at(path) {
        let expected = config.rank_at(path);
        return Err(format!(
            "A has rank {rank} and B {columns}, adapter_config.json says {expected}"
        ));
    }
    Ok(Pair {
        a: Tensor::from_data(a, device),
        b: Tensor::from_data(b, device),
        scale: config.scale_at(path),
        embedding,
    })
}

/// `target_modules` where it is a list that nothing else narrows.
fn names(raw: &Value, config: &LoraConfig) -> Option<Vec<String>> {
    let list = raw.get("target_modules")?.as_array()?;
    let names = list.iter().map(|name| name.as_str().map(str::to_string));
    (config.layers.is_none() && config.exclude.is_empty())
        .then(|| names.collect())
        .flatten()
}
