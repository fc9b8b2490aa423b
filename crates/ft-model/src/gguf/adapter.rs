//! LoRA adapters.

use std::path::Path;

use burn::tensor::{DType, Tensor};
use ft_gguf::{Dtype, FileShape, FileType, TensorInfo};
use ft_peft::Kind;
use ft_peft::plain::{Pair, PlainLora};

use super::{hparams, names};
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// Writes a LoRA adapter over the model in `dir` as a GGUF file, for `--lora`. Only `config.json` of the model is read.
///
/// llama.cpp scales by alpha / rank with one alpha per file: the scale of every module is folded into its B, the ranks are
/// made one, and alpha is that rank.
///
/// # Errors
/// [`Error::Config`] for an architecture that is not written, [`Error::Tensors`] lists the modules that llama.cpp cannot
/// adapt or that this model does not have.
pub fn write_adapter(dir: &Path, adapter: &PlainLora, dtype: Dtype, out: &Path) -> Result<()> {
    let config = ModelConfig::from_dir(dir)?;
    let architecture = hparams::architecture(&config, dir)?;
    check(&config, adapter, dir)?;
    let adapter = adapter.folded();
    let title = out.file_stem().unwrap_or_default().to_string_lossy();
    let mut metadata = hparams::general(architecture, "adapter", &title, FileType::All(dtype));
    metadata.put("adapter.type", "lora");
    metadata.put("adapter.lora.alpha", adapter.rank() as f32);
    let file = FileShape {
        layers: config.num_hidden_layers,
        tied: config.tie_word_embeddings,
    };
    let mut infos = Vec::new();
    let mut tensors = Vec::new();
    for (path, pair) in &adapter.pairs {
        let name = names::name(path, &config).expect("checked");
        for (part, tensor) in [("lora_a", &pair.a), ("lora_b", &pair.b)] {
            let (name, shape) = (format!("{name}.weight.{part}"), tensor.dims());
            infos.push(TensorInfo::new(
                &name,
                &shape,
                FileType::All(dtype).dtype(&name, &shape, file),
            ));
            let heads = names::interleaved(architecture, path, &config).filter(|_| part == "lora_b");
            tensors.push((tensor, heads));
        }
    }
    let values = |index: usize| -> std::io::Result<Vec<f32>> {
        let (tensor, heads) = &tensors[index];
        let values = host(tensor);
        Ok(match heads {
            Some(heads) => names::interleave(&values, *heads, tensor.dims()[0]),
            None => values,
        })
    };
    ft_gguf::write(out, &metadata, &infos, values).map_err(|source| Error::Io {
        path: out.into(),
        source,
    })
}

fn host(tensor: &Tensor<2>) -> Vec<f32> {
    let data = tensor.to_data().convert_dtype(DType::F32);
    data.try_into_vec().expect("converted to f32")
}

fn check(config: &ModelConfig, adapter: &PlainLora, dir: &Path) -> Result<()> {
    let specs = config.module_specs();
    let problem = |(path, pair): (&String, &Pair)| {
        let Some(spec) = specs.iter().find(|spec| spec.path == *path) else {
            return Some("this model has no such module".to_string());
        };
        match spec.kind {
            Kind::Embedding => Some("llama.cpp would adapt a tied head with the embeddings".into()),
            Kind::TiedHead => Some("the head is the embedding table, which llama.cpp does not adapt".into()),
            _ if spec.dims != pair.dims() => {
                Some(format!("the model has {:?}, the adapter {:?}", spec.dims, pair.dims()))
            }
            _ => None,
        }
    };
    let specs = adapter.pairs.iter();
    let mismatches: Vec<String> = specs
        .filter_map(|entry| problem(entry).map(|why| format!("{}: {why}", entry.0)))
        .collect();
    match mismatches.is_empty() {
        true => Ok(()),
        false => Err(Error::Tensors {
            path: dir.into(),
            mismatches,
        }),
    }
}
