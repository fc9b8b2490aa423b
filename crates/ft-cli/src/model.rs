//! A model in memory, ready to compute: weights, tokenizer and adapter.

use ft_data::Tokenizer;
use ft_infer::{GenerationConfig, GenerationOptions};
use ft_model::{LoadDtype, Model};
use ft_peft::Adapters;

use crate::args::{NamedAdapter, UNNAMED};
use crate::device::Picked;
use crate::failure::{Context, Failure};
use crate::locate::{self, Located};

/// What the verbs work with.
pub struct Loaded {
    pub model: Model,
    pub tokenizer: Tokenizer,
    pub located: Located,
    pub adapters: Adapters,
}

impl Loaded {
    /// Reads the checkpoint, quantized as in the run of the adapter, attaches the adapter where there is one, and reads the
    /// tokenizer.
    pub fn open(located: Located, dtype: LoadDtype, picked: &Picked) -> Result<Self, Failure> {
        Self::open_named(located, &[], dtype, picked)
    }

    /// [`open`](Self::open) with several adapters, of which the first is the one that was located.
    pub fn open_named(
        located: Located,
        named: &[NamedAdapter],
        dtype: LoadDtype,
        picked: &Picked,
    ) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::from_dir(located.tokenizer())?;
        let mut model = Model::load_quantized(&located.checkpoint, dtype, located.quant, &picked.device)?;
        let mut adapters = Adapters::new(&mut model);
        let name = named.first().map_or(UNNAMED, |first| &first.name);
        let first = located.adapter.iter().map(|folder| (name, folder.clone()));
        let others = named
            .iter()
            .skip(1)
            .map(|named| (named.name.as_str(), named.path.clone()));
        for (name, path) in first.chain(others) {
            let folder = locate::adapter_folder(&path)?;
            adapters.load(&mut model, name, &folder).context(format!(
                "cannot put the adapter in `{}` on this model",
                folder.display()
            ))?;
        }
        Ok(Self {
            model,
            tokenizer,
            located,
            adapters,
        })
    }

    /// The generation settings of the checkpoint, with what was typed on top.
    pub fn generation(&self, typed: &GenerationOptions) -> Result<GenerationConfig, Failure> {
        let mut own = GenerationConfig::from_dir(self.located.settings(), &self.model.config().eos_token_ids)?;
        // What fine-tuning taught the model to stop at may be the tokenizer's token, unknown to the base's settings.
        own.add_stops(self.tokenizer.eos_ids());
        Ok(own.with(typed)?)
    }
}

/// How weights are held to compute with: f32 on the CPU, which computes in f32 anyway, else as they are stored.
pub fn working_dtype(picked: &Picked) -> LoadDtype {
    if picked.is_cpu() {
        LoadDtype::F32
    } else {
        LoadDtype::Auto
    }
}

/// Batch widths are multiples of this: kernels on a GPU are tuned per shape, so it should see few of them.
pub fn width_multiple(picked: &Picked) -> usize {
    if picked.is_cpu() { 1 } else { 64 }
}
