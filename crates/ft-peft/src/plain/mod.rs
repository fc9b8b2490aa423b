//! LoRA adapters as pairs of matrices, read from PEFT folders without a model: what is exported and combined.

mod combine;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;

use crate::adapter::{self, PREFIX, TensorFile, WEIGHTS};
use crate::error::{Error, Result};
use crate::methods::adalora::AdaLoraConfig;
use crate::methods::lora::{BiasMode, Init, LoraConfig};
use crate::methods::{PeftConfig, PeftFile};
use crate::peft_config::Target;
use crate::target_module::AttentionShape;

pub use combine::{Combination, MajoritySign, Method, combine};

/// A LoRA adapter that is nothing but `s B A` at each of its modules.
#[derive(Clone, Debug)]
pub struct PlainLora {
    /// Folder or id of the base model, as its file names it.
    pub base_model: Option<String>,
    /// Whether the base stores its matrices `[in, out]`.
    pub fan_in_fan_out: bool,
    /// The matrices by checkpoint path (`model.layers.0.self_attn.q_proj`).
    pub pairs: BTreeMap<String, Pair>,
    /// `target_modules`, where a list of names means the modules.
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
    /// Reads the LoRA or AdaLoRA adapter in `dir`.
    ///
    /// # Errors
    /// [`Error::NotPlain`] lists what it has beside two matrices per place: another method, DoRA, biases, whole modules.
    pub fn read(dir: &Path, device: &Device) -> Result<Self> {
        let config = adapter::read_config(dir)?;
        let form = Form::of(&config).map_err(|reasons| Error::NotPlain {
            path: dir.into(),
            reasons,
        })?;
        let mut file = TensorFile::read(&dir.join(WEIGHTS))?;
        let mut tensors = std::mem::take(&mut file.tensors);
        let mut pairs = BTreeMap::new();
        let firsts: Vec<String> = tensors.keys().cloned().collect();
        for name in &firsts {
            let Some((path, names)) = form.partners(name) else {
                continue;
            };
            let at = |leaf: &str| format!("{PREFIX}{path}.{leaf}");
            let found: Vec<TensorData> = names.iter().filter_map(|leaf| tensors.remove(&at(leaf))).collect();
            if found.len() < names.len() {
                let all = names.join(", ");
                file.mismatches
                    .push(format!("{PREFIX}{path}: not all of {all} are there"));
                continue;
            }
            tensors.remove(&at("base_layer.weight"));
            match form.pair(path, found, names == EMBEDDING, device) {
                Ok(pair) => pairs.extend(pair.map(|pair| (path.to_string(), pair))),
                Err(why) => file.mismatches.push(format!("{name}: {why}")),
            }
        }
        file.tensors = tensors;
        file.finish()?;
        let raw = adapter::raw_config(dir)?;
        Ok(Self {
            base_model: adapter::base_model(dir),
            fan_in_fan_out: raw.get("fan_in_fan_out").and_then(Value::as_bool).unwrap_or(false),
            modules: form.modules(&raw),
            pairs,
        })
    }

    /// The largest rank of a place.
    pub fn rank(&self) -> usize {
        self.pairs.values().map(Pair::rank).max().unwrap_or(0)
    }

    /// The same function with every scale in B and every place of one rank, so that a reader that knows a single rank and
    /// alpha for the whole file computes it: alpha = rank, scale 1.
    pub fn folded(&self) -> Self {
        let rank = self.rank();
        let pairs = self.pairs.iter();
        Self {
            pairs: pairs.map(|(path, pair)| (path.clone(), pair.folded(rank))).collect(),
            ..self.clone()
        }
    }

    /// Writes it into `dir` in PEFT's layout: [`folded`](Self::folded), so with one rank and alpha = rank.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let folded = self.folded();
        let (rank, paths) = (folded.rank(), folded.pairs.keys().cloned().collect::<Vec<_>>());
        let config = LoraConfig {
            rank,
            alpha: rank as f64,
            ..LoraConfig::default()
        };
        let target = Target {
            stacked: 1,
            kept: &BTreeMap::new(),
            base_model: folded.base_model.as_deref().unwrap_or_default(),
            modules: folded.modules.as_ref().unwrap_or(&paths),
            paths: &paths,
            fan_in_fan_out: folded.fan_in_fan_out,
            shape: AttentionShape::default(),
        };
        let file = config.to_peft(&target).expect("LoRA has a file");
        let mut tensors = BTreeMap::new();
        for (path, pair) in &folded.pairs {
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
/// Names of AdaLoRA's A, B and E.
const TRIPLETS: [&str; 3] = ["lora_A", "lora_B", "lora_E"];

/// The options of an adapter that matrices alone can say.
#[derive(Clone, Copy)]
enum Form<'a> {
    Lora(&'a LoraConfig),
    /// `E ∘ A` is its A.
    AdaLora(&'a AdaLoraConfig),
}

impl<'a> Form<'a> {
    /// The form, or what the adapter has beside matrices.
    fn of(config: &'a PeftConfig) -> std::result::Result<Self, Vec<String>> {
        let mut reasons = Vec::new();
        let mut refuse = |has: bool, why: &str| reasons.extend(has.then(|| why.to_string()));
        let (form, whole) = match config {
            PeftConfig::Lora(lora) => {
                refuse(lora.dora, "DoRA (use_dora) trains magnitudes beside the matrices");
                refuse(lora.lora_bias, "lora_bias adds a vector beside the matrices");
                refuse(lora.bias != BiasMode::None, "bias trains biases of the base");
                refuse(
                    matches!(lora.init, Init::Pissa | Init::Olora),
                    "init_lora_weights moves the base weights, which the adapter then needs",
                );
                refuse(
                    !lora.trainable_token_indices.is_empty(),
                    "trainable_token_indices trains rows of the embeddings",
                );
                refuse(
                    !lora.trainable_token_indices.is_empty(),
                    "trainable_token_indices trains rows of the embedding table",
                );
                (Form::Lora(lora), &lora.modules_to_save)
            }
            PeftConfig::AdaLora(lora) => (Form::AdaLora(lora), &lora.modules_to_save),
            other => return Err(vec![format!("its method is \"{}\", not LoRA", other.name())]),
        };
        if !whole.is_empty() {
            reasons.push(format!("modules_to_save holds whole layers: {}", whole.join(", ")));
        }
        if reasons.is_empty() { Ok(form) } else { Err(reasons) }
    }

    /// For the name of an A: its path, and the names of the place's tensors.
    fn partners(self, name: &str) -> Option<(&str, &'static [&'static str])> {
        let kinds: [&'static [&'static str]; 2] = match self {
            Form::Lora(_) => [&PROJECTION, &EMBEDDING],
            Form::AdaLora(_) => [&TRIPLETS, &[]],
        };
        let rest = name.strip_prefix(PREFIX)?;
        kinds.into_iter().find_map(|names| {
            let path = rest.strip_suffix(names.first()?)?.strip_suffix('.')?;
            Some((path, names))
        })
    }

    /// The matrices of a place; none where AdaLoRA has taken everything away.
    fn pair(
        self,
        path: &str,
        tensors: Vec<TensorData>,
        embedding: bool,
        device: &Device,
    ) -> std::result::Result<Option<Pair>, String> {
        let shapes = tensors
            .iter()
            .map(|data| <[usize; 2]>::try_from(data.shape().to_vec()).ok());
        let shapes: Option<Vec<[usize; 2]>> = shapes.collect();
        let (rank, columns) = match shapes.as_deref() {
            Some([a, b]) => (a[0], b[1]),
            Some([a, b, e]) if *e == [a[0], 1] => (a[0], b[1]),
            _ => return Err("A and B must be matrices, E a column of A's height".into()),
        };
        let expected = self.rank_at(path);
        if rank != columns || rank != expected {
            return Err(format!(
                "A has rank {rank} and B {columns}, adapter_config.json says {expected}"
            ));
        }
        if rank == 0 {
            return Ok(None);
        }
        let mut tensors = tensors.into_iter().map(|data| Tensor::<2>::from_data(data, device));
        let mut next = || tensors.next().expect("as many as shapes");
        let (a, b) = (next(), next());
        let a = match self {
            Form::Lora(_) => a,
            Form::AdaLora(_) => a * next(),
        };
        Ok(Some(Pair {
            a,
            b,
            scale: self.scale_at(path),
            embedding,
        }))
    }

    fn rank_at(self, path: &str) -> usize {
        match self {
            Form::Lora(lora) => lora.rank_at(path),
            Form::AdaLora(lora) => lora.rank_at(path),
        }
    }

    fn scale_at(self, path: &str) -> f64 {
        match self {
            Form::Lora(lora) => lora.scale_at(path),
            Form::AdaLora(lora) => lora.scale(),
        }
    }

    /// `target_modules` where it is a list that nothing else narrows.
    fn modules(self, raw: &Value) -> Option<Vec<String>> {
        let narrowed = match self {
            Form::Lora(lora) => lora.layers.is_some() || !lora.exclude.is_empty(),
            Form::AdaLora(lora) => lora.layers.is_some() || !lora.exclude.is_empty(),
        };
        let list = raw.get("target_modules")?.as_array().filter(|_| !narrowed)?;
        list.iter().map(|name| name.as_str().map(str::to_string)).collect()
    }
}
