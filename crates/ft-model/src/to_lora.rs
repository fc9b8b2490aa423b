//! An adapter of any method that changes matrices, written as LoRA.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use ft_peft::convert::{self, Intruders, Keep, truncated};
use ft_peft::methods::lora::Init;
use ft_peft::{Adaptable, Attached, Delta, ModuleSlot, PeftConfig, Projection, TargetModule, WeightDelta, adapter};
use ft_quant::{Layout, Scheme};

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::gguf::table;
use crate::loader::{LoadDtype, Loader};
use crate::model::HEAD;
use crate::source::{Fill, Source};

/// What is converted, and how.
#[derive(Clone, Debug)]
pub struct ToLora<'a> {
    /// Folder of the base. Its weights are read where the adapter's changes depend on them, one matrix at a time; else `config.json` is enough.
    pub dir: &'a Path,
    /// How a run quantized the base while reading it: the adapter was made for the rounded weights.
    pub quant: Option<Scheme>,
    /// Adapter folder.
    pub adapter: &'a Path,
    /// What is kept of each change; without, the rank that a LoRA adapter has there.
    pub keep: Option<Keep>,
    /// Reduces intruder dimensions first.
    pub intruders: Option<Intruders>,
}

/// What became of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// Its checkpoint path.
    pub path: String,
    /// Rank of the product.
    pub rank: usize,
    /// ‖ΔW‖ of what was written, before it was cut to this rank.
    pub norm: f64,
    /// ‖ΔW - B A‖.
    pub error: f64,
    /// Directions of the tuned matrix that were reduced.
    pub intruders: Vec<usize>,
}

/// Writes the adapter into `out` as LoRA of PEFT, each matrix's change as the nearest product of a rank. Modules that train whole stay as they are.
///
/// # Errors
/// [`ft_peft::Error::NotPlain`] for what two matrices for each module cannot say: virtual tokens, bottlenecks, biases, embeddings. Those of reading the
/// adapter and the base.
pub fn to_lora(source: &ToLora<'_>, out: &Path) -> Result<Vec<Converted>> {
    source.keep.map_or(Ok(()), Keep::check)?;
    let config = ModelConfig::from_dir(source.dir)?.with_head_of(source.adapter)?;
    let mut model = config.hollow();
    let (peft, attached) = adapter::load(source.adapter, &mut model)?;
    refuse(source, &peft, &attached)?;
    ft_peft::mergeable(&mut model)?;

    let device = Device::flex();
    let reads = source.intruders.is_some() || depends_on_base(&mut model);
    let checkpoint = reads.then(|| Checkpoint::open(source.dir)).transpose()?;
    let mut loader = checkpoint.as_ref().map(|checkpoint| {
        let loader = Loader::new(checkpoint, &config, LoadDtype::F32, None, &device);
        match source.quant {
            None => loader,
            Some(scheme) => loader.quantized(scheme),
        }
    });
    let mut done = Vec::new();
    for mut module in model.target_modules() {
        let TargetModule { path, slot } = &mut module;
        let slot = match slot {
            ModuleSlot::Projection(slot) => slot,
            ModuleSlot::Embedding(slot) if slot.delta.is_some() => {
                return Err(not_plain(source, format!("{path} is an embedding table")));
            }
            _ => continue,
        };
        let Some(delta) = slot.delta.take() else { continue };
        let keep = source.keep.or_else(|| own_rank(&delta)).ok_or_else(|| {
            not_plain(
                source,
                "it has no rank of its own; say how much is kept of each change".into(),
            )
        })?;
        let weight = match &mut loader {
            None => None,
            Some(loader) => Some(stored(loader, path, slot, &config)?),
        };
        let mut change = change(&delta, slot, weight.clone(), &device).ok_or_else(|| {
            not_plain(
                source,
                format!("it changes the bias of {path}, which LoRA has no matrices for"),
            )
        })?;
        let mut intruders = Vec::new();
        if let (Some(how), Some(weight)) = (source.intruders, weight) {
            (change, intruders) = how.reduced(weight.weight, change);
        }
        let product = truncated(change, keep);
        done.push(Converted {
            path: path.clone(),
            rank: product.rank(),
            norm: product.norm,
            error: product.error,
            intruders,
        });
        slot.delta = Some(product.into_delta(path));
    }
    let head = model.task_head();
    let own = |path: &&String| !head.is_some_and(|head| head.holds(path));
    let whole: Vec<String> = attached.choice.whole.iter().filter(own).cloned().collect();
    let ranks: Vec<(String, usize)> = done.iter().map(|site| (site.path.clone(), site.rank)).collect();
    let lora = PeftConfig::Lora(convert::config(&ranks, &whole));
    let base = adapter::base_model(source.adapter).unwrap_or_else(|| source.dir.to_string_lossy().into_owned());
    adapter::save(out, &mut model, &lora, &base)?;
    config.save_labels(out)?;
    Ok(done)
}

fn not_plain(source: &ToLora<'_>, why: String) -> Error {
    Error::Adapter(ft_peft::Error::NotPlain {
        path: source.adapter.into(),
        reasons: vec![why],
    })
}

/// Fails for what is not a change of matrices.
fn refuse(source: &ToLora<'_>, peft: &PeftConfig, Attached { choice, .. }: &Attached) -> Result<()> {
    let name = peft.name();
    let moved = matches!(peft, PeftConfig::Lora(lora) if matches!(lora.init, Init::Pissa | Init::Olora));
    let reasons = [
        (
            choice.adapted.is_empty(),
            format!("its method is \"{name}\", which changes no matrix by an adapter"),
        ),
        (!choice.biases.is_empty(), "it trains biases of the base".into()),
        (!choice.rows.is_empty(), "it trains rows of the embeddings".into()),
        (
            moved,
            "init_lora_weights moved the base weights, which the adapter then needs".into(),
        ),
        (
            !peft.method().target_parameters().is_empty(),
            "target_parameters adapts experts that lie in one tensor, which a LoRA of modules has no name for".into(),
        ),
    ];
    let reasons: Vec<String> = reasons
        .into_iter()
        .filter_map(|(has, why)| has.then_some(why))
        .collect();
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Error::Adapter(ft_peft::Error::NotPlain {
            path: source.adapter.into(),
            reasons,
        })),
    }
}

/// Whether a change cannot be known without the matrix that is changed; an embedding among the modules is refused.
fn depends_on_base(model: &mut impl Adaptable) -> bool {
    model.target_modules().iter().any(|module| match &module.slot {
        ModuleSlot::Projection(slot) => slot.delta.as_ref().is_some_and(|delta| !delta.is_additive()),
        _ => false,
    })
}

/// The rank that a LoRA adapter has.
fn own_rank(delta: &Delta) -> Option<Keep> {
    match delta {
        Delta::Lora(lora) => Some(Keep::Rank(lora.a.dims()[0])),
        Delta::Dora(dora) => Some(Keep::Rank(dora.lora.a.dims()[0])),
        _ => None,
    }
}

/// A matrix `[out, in]` of the base and its bias `[out]`.
#[derive(Clone)]
struct Stored {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
}

/// Reads them; `slot` has their shapes.
fn stored(loader: &mut Loader<'_>, path: &str, slot: &Projection, config: &ModelConfig) -> Result<Stored> {
    let [out, inner] = slot.weight.dims();
    let weight = match (slot.weight.layout, path == HEAD && config.tie_word_embeddings) {
        (_, true) => loader.matrix(table(config), [out, inner], Fill::Normal),
        (Layout::OutIn, _) => loader.weight(path, [out, inner], Layout::OutIn).dense(),
        (Layout::InOut, _) => loader.weight(path, [inner, out], Layout::InOut).dense(),
    };
    let bias = slot
        .bias
        .as_ref()
        .map(|_| loader.vector(&format!("{path}.bias"), out, Fill::Zeros));
    loader.check()?;
    Ok(Stored { weight, bias })
}

/// What the adapter adds to the matrix `[out, in]`; `None` where it adds to the bias, too.
fn change(delta: &Delta, slot: &Projection, stored: Option<Stored>, device: &Device) -> Option<Tensor<2>> {
    // What is added alone has all its digits beside a matrix of zeros.
    let (weight, bias) = match stored.filter(|_| !delta.is_additive()) {
        Some(stored) => (stored.weight, stored.bias),
        None => (
            Tensor::zeros(slot.weight.dims(), device),
            slot.bias.as_ref().map(|bias| bias.val()),
        ),
    };
    let (tuned, moved) = delta.fold(weight.clone(), bias.clone());
    let values = |bias: Option<Tensor<1>>| bias.map(|bias| bias.into_data().iter::<f32>().collect::<Vec<f32>>());
    (values(bias) == values(moved)).then(|| tuned - weight)
}
