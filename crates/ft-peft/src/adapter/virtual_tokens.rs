//! Virtual tokens in a folder: PEFT's file holds what an encoder makes, a file of our own the encoder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};

use super::{TensorFile, WEIGHTS, read_config, write_tensors};
use crate::error::{Error, Result};
use crate::methods::PeftConfig;
use crate::methods::p_tuning::PTuningConfig;
use crate::pass::Pass;
use crate::target_module::{Adaptable, AnyTensor, ModuleSlot, TargetModule};
use crate::virtual_tokens::{Prefix, PrefixTable, Prompt, PromptTable, VirtualTokens};
use ft_quant::Leaf;

/// File with the tensors of a prompt encoder, by their names in PEFT's `PromptEncoder` or `PrefixEncoder`.
pub const ENCODER: &str = "prompt_encoder.safetensors";

/// The one tensor of PEFT's file.
pub(crate) const EMBEDDINGS: &str = "prompt_embeddings";

/// Whether the adapter in `dir` came out of an encoder that is not in `dir`: it can be used, but not trained on.
pub fn encoder_is_missing(dir: &Path) -> Result<bool> {
    let encoded = match read_config(dir)? {
        PeftConfig::PTuning(PTuningConfig { .. }) => true,
        PeftConfig::PrefixTuning(prefix) => prefix.prefix_projection,
        _ => false,
    };
    Ok(encoded && !dir.join(ENCODER).is_file())
}

/// PEFT's tensor, where the model has virtual tokens.
pub(super) fn embeddings(model: &mut impl Adaptable) -> BTreeMap<String, TensorData> {
    let mut modules = model.target_modules();
    let tokens = modules.iter_mut().filter_map(TargetModule::virtual_tokens);
    let data = |tokens: &mut dyn VirtualTokens| tokens.embeddings(&Pass::eval()).into_data();
    tokens.map(|tokens| (EMBEDDINGS.to_string(), data(tokens))).collect()
}

/// Writes the encoder, where the model has one. One of an earlier adapter does not stay.
pub(super) fn write_encoder(dir: &Path, model: &mut impl Adaptable) -> Result<()> {
    let path = dir.join(ENCODER);
    let mut modules = model.target_modules();
    let encoded = modules
        .iter_mut()
        .filter_map(TargetModule::virtual_tokens)
        .find(|tokens| tokens.is_encoded());
    match encoded {
        Some(tokens) => {
            let state = tokens
                .state()
                .into_iter()
                .map(|(name, tensor)| (name, tensor.into_data()));
            write_tensors(&path, &state.collect())
        }
        None if path.exists() => std::fs::remove_file(&path).map_err(|source| Error::Io { path, source }),
        None => Ok(()),
    }
}

/// Fills the virtual tokens of a model from `file` and the encoder's file in `dir`. Without the latter what PEFT's file
/// holds is used as it is, frozen.
pub(super) fn fill(dir: &Path, model: &mut impl Adaptable, file: &mut TensorFile) -> Result<()> {
    for mut module in model.target_modules() {
        let Some(tokens) = module.virtual_tokens() else {
            continue;
        };
        let mut saved = None;
        file.fill(EMBEDDINGS, tokens.embeddings(&Pass::eval()), |value| {
            saved = Some(value)
        });
        let Some(saved) = saved else { continue };
        let path = dir.join(ENCODER);
        match (tokens.is_encoded(), path.is_file()) {
            (false, _) => tokens.load_state(&mut |_| AnyTensor::Matrix(saved.clone())),
            (true, true) => {
                fill_encoder(&path, tokens)?;
                same(&path, saved, tokens.embeddings(&Pass::eval()))?;
            }
            (true, false) => freeze(&mut module, saved),
        }
    }
    Ok(())
}

fn fill_encoder(path: &Path, tokens: &mut dyn VirtualTokens) -> Result<()> {
    let mut file = TensorFile::read(path)?;
    let mut values = BTreeMap::new();
    for (name, present) in tokens.state() {
        let mut keep = |value| {
            values.insert(name.clone(), value);
        };
        match present {
            AnyTensor::Matrix(present) => file.fill(&name, present, |value| keep(AnyTensor::Matrix(value))),
            AnyTensor::Vector(present) => file.fill(&name, present, |value| keep(AnyTensor::Vector(value))),
        }
    }
    file.finish()?;
    tokens.load_state(&mut |name| values.remove(name).expect("`finish` refused a file without it"));
    Ok(())
}

/// Fails where the encoder does not make what PEFT's file holds: the two files are then of different adapters.
fn same(path: &Path, saved: Tensor<2>, made: Tensor<2>) -> Result<()> {
    const TOLERANCE: f32 = 1e-3;
    let scale = saved.clone().abs().max().into_scalar::<f32>().max(1.0);
    let error = (saved - made.detach()).abs().max().into_scalar::<f32>();
    if error <= TOLERANCE * scale {
        return Ok(());
    }
    let why = format!(
        "does not belong to the {WEIGHTS} beside it: {EMBEDDINGS} differ by {error:.1e}; take both from one folder, or \
         remove this file to use the adapter without training it"
    );
    Err(Error::Format {
        path: PathBuf::from(path),
        why,
    })
}

fn freeze(module: &mut TargetModule<'_>, embeddings: Tensor<2>) {
    match &mut module.slot {
        ModuleSlot::Embedding(slot) => {
            let embedding = Leaf::Frozen(embeddings);
            slot.prompt = Some(Prompt::Table(PromptTable { embedding }));
        }
        ModuleSlot::Attention { slot, shape, .. } => {
            slot.prefix = Some(Prefix::Table(PrefixTable::frozen(embeddings, shape.layers)));
        }
        _ => unreachable!("no virtual tokens here"),
    }
}
