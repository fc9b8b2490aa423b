//! What the options, files and arithmetic of the methods have in common.

use std::sync::OnceLock;

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use serde_json::{Value, json};

use super::PeftMethod;
use crate::attach::{Choice, ModuleSpec};
use crate::error::{Error, Result};
use crate::patterns::Patterns;
use crate::peft_config::Target;
use crate::targets::Kind;

/// The error of a wrong value at `peft.<key>`.
pub(crate) fn invalid(key: &str, why: impl Into<String>) -> Error {
    Error::Config {
        key: format!("peft.{key}"),
        why: why.into(),
    }
}

/// A value that is computed from the parameters beside it, kept for as long as they cannot have changed: a clone, a mapped
/// module and one on another device start without it.
#[derive(Debug, Default)]
pub(super) struct Cached(OnceLock<Tensor<1>>);

impl Cached {
    /// The value, from `make` the first time.
    pub fn get(&self, make: impl FnOnce() -> Tensor<1>) -> Tensor<1> {
        self.0.get_or_init(make).clone()
    }
}

impl Clone for Cached {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Module for Cached {
    fn collect_devices(&self, devices: Devices) -> Devices {
        devices
    }

    fn fork(self, _: &Device) -> Self {
        Self::default()
    }

    fn to_device(self, _: &Device) -> Self {
        Self::default()
    }

    fn visit<V: ModuleVisitor>(&self, _: &mut V) {}

    fn map<M: ModuleMapper>(self, _: &mut M) -> Self {
        Self::default()
    }

    fn materialize(self) -> Self {
        self
    }

    fn train(self) -> Self {
        Self::default()
    }

    fn valid(&self) -> Self {
        Self::default()
    }
}

impl ModuleDisplayDefault for Cached {
    fn content(&self, _: Content) -> Option<Content> {
        None
    }
}

impl ModuleDisplay for Cached {}

/// A count that must be there.
pub(crate) fn at_least_one(key: &str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(invalid(key, "must be at least 1"));
    }
    Ok(())
}

/// A size of tensors. What is above no adapter has; up to it, products of sizes stay in range.
pub(super) fn size(key: &str, value: usize) -> Result<()> {
    const LARGEST: usize = 1 << 20;
    at_least_one(key, value)?;
    if value > LARGEST {
        return Err(invalid(key, format!("must be at most {LARGEST}, got {value}")));
    }
    Ok(())
}

/// Ranks of at least 1, those of a pattern too.
pub(super) fn ranks(rank: usize, pattern: &Patterns<usize>) -> Result<()> {
    size("rank", rank)?;
    let each = |(path, rank): &(String, usize)| size(&format!("rank_pattern.\"{path}\""), *rank);
    pattern.0.iter().try_for_each(each)
}

/// Numerators of scales above zero, those of a pattern too.
pub(super) fn alphas(alpha: f64, pattern: &Patterns<f64>) -> Result<()> {
    positive("alpha", alpha)?;
    let each = |(path, alpha): &(String, f64)| positive(&format!("alpha_pattern.\"{path}\""), *alpha);
    pattern.0.iter().try_for_each(each)
}

/// A number above zero.
pub(crate) fn positive(key: &str, value: f64) -> Result<()> {
    if !value.is_finite() || value <= 0.0 {
        return Err(invalid(key, format!("must be a positive number, got {value}")));
    }
    Ok(())
}

/// A share of something that is dropped.
pub(crate) fn dropout(key: &str, value: f64) -> Result<()> {
    if !(0.0..1.0).contains(&value) {
        return Err(invalid(key, format!("must be at least 0 and below 1, got {value}")));
    }
    Ok(())
}

/// The adapted ones among `specs`, when all of them are projections: the only kind that `method` can adapt.
pub(crate) fn projections<'p>(method: &str, specs: &'p [ModuleSpec], choice: &Choice) -> Result<Vec<&'p ModuleSpec>> {
    let adapted: Vec<_> = specs.iter().filter(|p| choice.adapted.contains(&p.path)).collect();
    let what = |kind| match kind {
        Kind::Norm => Some("a normalization"),
        Kind::Bias => Some("a bias"),
        Kind::Vector => Some("a vector"),
        Kind::Convolution => Some("a convolution"),
        Kind::Gates => Some("no matrix"),
        Kind::Embedding => Some("an embedding table"),
        Kind::Residual => Some("the output of a sub-layer"),
        Kind::Attention => Some("the attention of all layers"),
        Kind::Linear | Kind::Router | Kind::Head | Kind::TiedHead | Kind::TaskHead => None,
    };
    match adapted.iter().find_map(|spec| Some((spec, what(spec.kind)?))) {
        None => Ok(adapted),
        Some((spec, what)) => {
            let why = format!(
                "{} is {what}, which {method} cannot adapt; train it whole with modules_to_save",
                spec.path
            );
            Err(invalid("targets", why))
        }
    }
}

/// The keys that the files of all methods have.
pub(crate) fn record(kind: &str, target: &Target<'_>, modules_to_save: &[String]) -> Value {
    let whole = if modules_to_save.is_empty() {
        Value::Null
    } else {
        json!(modules_to_save)
    };
    json!({
        "base_model_name_or_path": target.base_model,
        "inference_mode": true,
        "modules_to_save": whole,
        "peft_type": kind,
        "target_modules": target.modules,
        "task_type": "CAUSAL_LM",
    })
}

/// The keys that the files of the prompt methods have; `heads` heads that are `width` wide together.
pub(super) fn prompt_record(kind: &str, target: &Target<'_>, tokens: usize, [heads, width]: [usize; 2]) -> Value {
    json!({
        "base_model_name_or_path": target.base_model,
        "inference_mode": true,
        "modules_to_save": null,
        "num_attention_heads": heads,
        "num_layers": target.shape.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": tokens,
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "token_dim": width,
    })
}

/// `config` after its checks: what a file said must be possible, too.
pub(crate) fn checked<C: PeftMethod>(config: C) -> Result<C> {
    config.check()?;
    Ok(config)
}

/// The same numbers in another shape of as many.
pub(super) fn reshaped(data: TensorData, shape: Vec<usize>) -> TensorData {
    let values: Vec<f32> = data.iter::<f32>().collect();
    TensorData::new(values, shape)
}

/// The tensor in f32, the type adapters compute in.
pub(crate) fn f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 {
        x
    } else {
        x.cast(FloatDType::F32)
    }
}

/// `x` with its last axis multiplied by a vector, in the type of `x`.
pub(crate) fn scaled<const D: usize>(x: Tensor<D>, by: Tensor<1>) -> Tensor<D> {
    let by = by.cast(x.dtype());
    x * by.unsqueeze()
}
