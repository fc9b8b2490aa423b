//! A model in memory, ready to compute: weights, tokenizer and adapter.

use ft_data::Tokenizer;
use ft_infer::{GenerationConfig, GenerationOptions};
use ft_model::{LoadDtype, Model};

use crate::device::Picked;
use crate::failure::{Context, Failure};
use crate::locate::Located;

/// What the verbs work with.
pub struct Loaded {
    pub model: Model,
    pub tokenizer: Tokenizer,
    pub located: Located,
}

impl Loaded {
    /// Reads the checkpoint, quantized as in the run of the adapter, attaches the adapter where there is one, and reads the tokenizer.
    pub fn open(located: Located, dtype: LoadDtype, picked: &Picked) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::from_dir(located.tokenizer())?;
        let model = Model::load_quantized(&located.checkpoint, dtype, located.quant, &picked.device)?;
        let compute = model.suited_compute(picked.is_cpu());
        let mut model = model.computing_in(compute);
        if let Some(adapter) = &located.adapter {
            ft_peft::adapter::load(adapter, &mut model).context(format!(
                "cannot put the adapter in `{}` on this model",
                adapter.display()
            ))?;
        }
        Ok(Self {
            model,
            tokenizer,
            located,
        })
    }

    /// The generation settings of the checkpoint, with what was typed on top.
    pub fn generation(&self, typed: &GenerationOptions) -> Result<GenerationConfig, Failure> {
        let mut own = GenerationConfig::from_dir(self.located.settings(), &self.model.config().eos_token_ids)?;
        // What fine-tuning taught the model to stop at may be the tokenizer's token, unknown to the base's settings.
        for id in self.tokenizer.eos_ids() {
            if !own.eos_token_id.contains(id) {
                own.eos_token_id.push(*id);
            }
        }
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
