//! How the weights of a model are held in memory: `--dtype` and `--quant`.

use std::path::Path;

use clap::ValueEnum;
use ft_model::{LoadDtype, Model, ModelConfig, check_quantizable};
use ft_quant::{Kind, Scheme};

use crate::device::Picked;
use crate::failure::{Context, Failure};
use crate::locate::Located;

/// The flags, for the verbs that run a model.
#[derive(clap::Args, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Type in which weights are held
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: Dtype,
    /// Quantize the projections while they are read; without it, as they are stored
    #[arg(long, value_name = "KIND")]
    quant: Option<Format>,
}

/// A type of weights on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dtype {
    /// As they are stored
    Auto,
    F32,
    Bf16,
    F16,
}

impl Dtype {
    fn load(self) -> LoadDtype {
        match self {
            Dtype::Auto => LoadDtype::Auto,
            Dtype::F32 => LoadDtype::F32,
            Dtype::Bf16 => LoadDtype::Bf16,
            Dtype::F16 => LoadDtype::F16,
        }
    }
}

/// Bytes of the weights' files; 0 where they cannot be listed, which loading will tell. Of a GGUF file two for each number, as which it is held.
fn stored(folder: &Path, config: &ModelConfig) -> u64 {
    if ft_gguf::is_gguf(folder) {
        return 2 * config.num_parameters() as u64;
    }
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "safetensors"));
    weights
        .filter_map(|file| Some(file.path().metadata().ok()?.len()))
        .sum()
}

/// A format of codes on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Nf4,
    Fp4,
    Int8,
}

impl Format {
    /// The kind of storage.
    pub fn kind(self) -> Kind {
        match self {
            Format::Nf4 => Kind::Nf4,
            Format::Fp4 => Kind::Fp4,
            Format::Int8 => Kind::Int8,
        }
    }
}

impl Weights {
    /// As they are stored, or as the run of the adapter held them.
    pub const STORED: Self = Self {
        dtype: Dtype::Auto,
        quant: None,
    };

    /// All in f32, as far as they are not in codes.
    pub const F32: Self = Self {
        dtype: Dtype::F32,
        quant: None,
    };

    /// The checkpoint as `config` says, which is its own but for the head; what it lacks of the head is drawn from `fresh`.
    /// Activations have the type that suits the device.
    ///
    /// # Errors
    /// What is wrong with the checkpoint, or that it cannot be held as the flags ask.
    pub fn load(
        self,
        config: ModelConfig,
        located: &Located,
        fresh: Option<u64>,
        picked: &Picked,
    ) -> Result<Model, Failure> {
        let folder = &located.checkpoint;
        let scheme = match self.quant {
            None => located.quant,
            Some(format) => {
                let scheme = Scheme::new(format.kind());
                let checked = check_quantizable(&config, scheme, folder);
                checked.context(format!("--quant {}: the model cannot be held so", scheme.kind.name()))?;
                if let Some(trained) = located.quant.filter(|trained| !trained.same_as(&scheme)) {
                    tracing::warn!("--quant {}: the adapter was trained over {trained}", scheme.kind.name());
                }
                Some(scheme)
            }
        };
        if picked.is_cpu() {
            crate::allocator::in_large_pages(stored(folder, &config));
        }
        let model = Model::load_configured(config, folder, self.dtype.load(), scheme, fresh, &picked.device)?;
        crate::allocator::give_back();
        let compute = model.suited_compute(picked.is_cpu());
        Ok(model.computing_in(compute))
    }
}
