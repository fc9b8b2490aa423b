//! A model in memory, ready to compute: weights, tokenizer and adapter.

use ft_data::Tokenizer;
use ft_infer::{GenerationConfig, GenerationOptions};
use ft_model::{Model, ModelConfig};
use ft_peft::Adapters;

use crate::args::{NamedAdapter, UNNAMED};
use crate::device::Picked;
use crate::failure::{Context, Failure};
use crate::locate::{self, Located};
use crate::weights::Weights;

/// What the verbs work with.
pub struct Loaded {
    pub model: Model,
    pub tokenizer: Tokenizer,
    pub located: Located,
    pub adapters: Adapters,
}

impl Loaded {
    /// Reads the checkpoint, attaches the adapter where there is one, and reads the tokenizer.
    pub fn open(located: Located, weights: Weights, picked: &Picked) -> Result<Self, Failure> {
        Self::open_named(located, &[], weights, picked)
    }

    /// [`open`](Self::open) with several adapters, of which the first is the one that was located.
    pub fn open_named(
        located: Located,
        named: &[NamedAdapter],
        weights: Weights,
        picked: &Picked,
    ) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::from_dir(located.tokenizer())?;
        let mut model = base(&located, weights, picked)?;
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

    /// Fails for a model that says labels and writes no text.
    pub fn must_write(&self, verb: &str) -> Result<(), Failure> {
        must_write(&self.model, verb)
    }

    /// The generation settings of the checkpoint, with what was typed on top.
    pub fn generation(&self, typed: &GenerationOptions) -> Result<GenerationConfig, Failure> {
        let mut own = GenerationConfig::from_dir(self.located.settings(), &self.model.config().eos_token_ids)?;
        // What fine-tuning taught the model to stop at may be the tokenizer's token, unknown to the base's settings.
        own.add_stops(self.tokenizer.eos_ids());
        Ok(own.with(typed)?)
    }
}

/// The checkpoint, with the head of the adapter, if that brings one.
fn base(located: &Located, weights: Weights, picked: &Picked) -> Result<Model, Failure> {
    let own = ModelConfig::from_dir(&located.checkpoint)?;
    let config = match &located.adapter {
        None => own.clone(),
        Some(adapter) => own.clone().with_head_of(adapter)?,
    };
    // The adapter fills a head that the checkpoint does not hold.
    let fresh = (config.head != own.head).then_some(0);
    weights.load(config, located, fresh, picked)
}

/// Fails for a model that says labels and writes no text.
pub fn must_write(model: &Model, verb: &str) -> Result<(), Failure> {
    match model.writes() {
        true => Ok(()),
        false => Err(Failure::wrong_use(format!(
            "`ft {verb}` needs a model that writes text, and this one does not ({}); `ft eval` measures it, `ft inspect` says what it is",
            model.config().what()
        ))),
    }
}

/// Batch widths are multiples of this: kernels on a GPU are tuned per shape, so it should see few of them.
pub fn width_multiple(picked: &Picked) -> usize {
    if picked.is_cpu() { 1 } else { 64 }
}
