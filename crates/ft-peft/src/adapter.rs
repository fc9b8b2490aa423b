//! Adapter folders: `adapter_config.json`, and `adapter_model.safetensors` (PEFT) or `adapter.safetensors` (AdapterHub).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};

use crate::adapterhub;
use crate::attach::{Attached, Choice, attach, choose, module_specs};
use crate::error::{Error, Result};
use crate::methods::{PeftConfig, PeftMethod, WeightDelta};
use crate::peft_config;
use crate::slots::Projection;
use crate::target_module::{Adaptable, ModuleSlot, TargetModule};

pub(crate) mod experts;
mod file;
mod head;
mod layout;
mod record;
mod sizes;
mod twin;
mod virtual_tokens;

pub(crate) use file::TensorFile;
use file::write_tensors;
pub use head::{SavedHead, saved_head};
use layout::Layout;
pub(crate) use virtual_tokens::EMBEDDINGS;
pub use virtual_tokens::{ENCODER, encoder_is_missing};

/// PEFT puts this before every name.
const ROOT: &str = "base_model.";
/// And this before every checkpoint path.
pub(crate) const PREFIX: &str = "base_model.model.";
const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// Whether `dir` holds an adapter, in PEFT's or AdapterHub's layout.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).is_file()
}

/// The method and options of the adapter in `dir`.
pub fn read_config(dir: &Path) -> Result<PeftConfig> {
    read(dir).map(|(config, _)| config)
}

/// The file with the tensors of the adapter in `dir`.
pub fn weights_file(dir: &Path) -> Result<PathBuf> {
    let (_, layout) = read(dir)?;
    layout.refuse_pickle(dir)?;
    Ok(dir.join(layout.weights()))
}

fn read(dir: &Path) -> Result<(PeftConfig, Layout)> {
    let (raw, path) = (raw_config(dir)?, dir.join(CONFIG));
    let object = peft_config::object(&raw, &path)?;
    if adapterhub::is_ours(object) {
        let (config, name) = adapterhub::parse(object, &path)?;
        return Ok((config, Layout::AdapterHub { name }));
    }
    Ok((peft_config::parse(object, &path)?, Layout::Peft))
}

/// The base model that the adapter in `dir` says it belongs to.
pub fn base_model(dir: &Path) -> Option<String> {
    let value = raw_config(dir).ok()?;
    let named = ["base_model_name_or_path", "model_name"].map(|key| value.get(key).and_then(|name| name.as_str()));
    named.into_iter().flatten().next().map(str::to_string)
}

/// The `adapter_config.json` in `dir` as it stands.
pub(crate) fn raw_config(dir: &Path) -> Result<serde_json::Value> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io {
        path: path.clone(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|e| Error::Format {
        path,
        why: format!("not valid JSON: {e}"),
    })
}

/// Attaches the adapter in `dir`. Strict: every tensor of the file is used and every tensor of the adapter is filled, or
/// the error lists all that do not fit.
pub fn load(dir: &Path, model: &mut impl Adaptable) -> Result<(PeftConfig, Attached)> {
    let (config, layout) = read(dir)?;
    layout.refuse_pickle(dir)?;
    let mut file = TensorFile::read(&dir.join(layout.weights()))?;
    if layout != Layout::Peft {
        if model.normalizes_behind() {
            let (raw, path) = (raw_config(dir)?, dir.join(CONFIG));
            adapterhub::fits_norms_behind(peft_config::object(&raw, &path)?, &path)?;
        }
        head::read_beside(dir, model, &mut file)?;
    }
    let to_fill = config.to_be_filled(dir.join(ENCODER).is_file());
    sizes::check(dir, &file, &to_fill, &module_specs(model))?;
    let attached = attach(model, &to_fill, 0)?;
    if !config.method().target_parameters().is_empty() {
        experts::take_apart(&mut file.tensors, &module_specs(model), &attached.choice.adapted);
    }
    twin::drop(model, &attached.choice, &mut file.tensors);
    let head = model.task_head();
    for mut module in model.target_modules() {
        match head.is_some_and(|head| head.holds(&module.path)) {
            true => file.fill_whole(&layout.head_tensor(config.method(), &module.path, ""), &mut module),
            false => file.fill_module(&mut module, &attached.choice, config.method(), &layout),
        }
    }
    file.fill_shared(model);
    virtual_tokens::fill(dir, model, &mut file)?;
    file.finish()?;
    Ok((config, attached))
}

/// Writes the adapter that `config` attached to `model` into `dir`.
pub fn save(dir: &Path, model: &mut impl Adaptable, config: &PeftConfig, base_model: &str) -> Result<()> {
    let choice = choose(config.method(), &module_specs(model))?;
    let layout = Layout::of(config.method());
    let Some(record) = record::record(model, config, &choice, base_model) else {
        let why = format!("\"{}\" leaves no adapter: save the model itself", config.name());
        return Err(Error::Config {
            key: "peft.method".into(),
            why,
        });
    };
    let mut tensors = tensors(model, config.method(), &choice, &layout);
    if !config.method().target_parameters().is_empty() {
        experts::put_together(&mut tensors, &choice.adapted);
    }
    if layout != Layout::Peft {
        head::write_beside(dir, model, &mut tensors, base_model)?;
    }
    write_folder(dir, &record, layout.weights(), &tensors)?;
    virtual_tokens::write_encoder(dir, model)
}

/// Writes an adapter folder: its `adapter_config.json` and its tensors, by their names, in the file `weights`.
pub(crate) fn write_folder(
    dir: &Path,
    config: &serde_json::Value,
    weights: &str,
    tensors: &BTreeMap<String, TensorData>,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io {
        path: dir.into(),
        source,
    })?;
    let path = dir.join(CONFIG);
    let text = serde_json::to_string_pretty(config).expect("a JSON map serializes");
    std::fs::write(&path, text).map_err(|source| Error::Io { path, source })?;
    write_tensors(&dir.join(weights), tensors)
}

/// Every tensor of the adapter by its name in the file.
fn tensors(
    model: &mut impl Adaptable,
    method: &dyn PeftMethod,
    choice: &Choice,
    layout: &Layout,
) -> BTreeMap<String, TensorData> {
    let (mut out, head) = (BTreeMap::new(), model.task_head());
    for mut module in model.target_modules() {
        let at = module.path.clone();
        if head.is_some_and(|head| head.holds(&at)) {
            let own = module.tensors().into_iter();
            out.extend(own.map(|(leaf, tensor)| (layout.head_tensor(method, &at, leaf), tensor.into_data())));
            continue;
        }
        let mut put = |name: &str, data: TensorData| {
            out.insert(layout.tensor(&at, name), data);
        };
        match &mut module.slot {
            ModuleSlot::Projection(slot) => {
                slot.delta
                    .iter()
                    .flat_map(WeightDelta::export)
                    .for_each(|(name, data)| put(name, data));
            }
            ModuleSlot::Embedding(slot) => {
                if let Some(delta) = &mut slot.delta {
                    delta
                        .params()
                        .into_iter()
                        .for_each(|(name, param)| put(name, param.data()));
                    if !delta.moves_head() {
                        put("base_layer.weight", slot.weight.val().into_data());
                    }
                }
            }
            ModuleSlot::Residual { slot, .. } => {
                let params = slot.adapter.iter_mut().flat_map(|adapter| adapter.params());
                params.for_each(|(name, param)| put(name, param.data()));
            }
            ModuleSlot::Norm(_) | ModuleSlot::Bias(_) | ModuleSlot::Vector { .. } | ModuleSlot::Attention { .. } => {}
        }
        let infix = method.infix(&module.path);
        put_own(&mut module, choice, infix, &mut put);
    }
    for (name, tensor) in shared(model) {
        out.insert(name, tensor.into_data());
    }
    out.extend(virtual_tokens::embeddings(model));
    twin::add(model, choice, &mut out);
    out
}

/// The constants that the adapters share, by their names in PEFT's file.
fn shared(model: &mut impl Adaptable) -> BTreeMap<String, Tensor<2>> {
    let mut out = BTreeMap::new();
    for module in model.target_modules() {
        if let ModuleSlot::Projection(Projection { delta: Some(delta), .. }) = module.slot {
            let shared = delta.shared().into_iter();
            out.extend(shared.map(|(name, tensor)| (format!("{ROOT}{name}"), tensor.clone())));
        }
    }
    out
}

/// The checkpoint tensors that train: whole modules and biases.
fn put_own(module: &mut TargetModule<'_>, choice: &Choice, infix: &str, put: &mut impl FnMut(&str, TensorData)) {
    if choice.biases.contains(&module.path) {
        let name = bias_name(module);
        let bias = module.bias().expect("only modules with a bias are listed");
        put(name, bias.val().into_data());
    }
    if choice.whole.contains(&module.path) {
        for (leaf, tensor) in module.tensors() {
            put(&format!("{infix}{leaf}"), tensor.into_data());
        }
    }
}

/// PEFT wraps an adapted layer, which moves its bias one level down.
fn bias_name(module: &TargetModule<'_>) -> &'static str {
    match &module.slot {
        ModuleSlot::Projection(slot) if slot.delta.is_some() => "base_layer.bias",
        _ => "bias",
    }
}
