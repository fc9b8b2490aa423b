//! What an objective is made from, beside its options.

use burn::module::Module;
use burn::tensor::FloatDType;
use ft_data::{Masking, Sample, Tokenizer};
use ft_infer::GenerationConfig;
use ft_model::{LoadDtype, Model, ModelConfig};

use super::Other;
use crate::tasks::Tasks;
use crate::{Error, Result};

/// The base model of the run and how other models are to be loaded beside it.
pub struct Given<'a> {
    base: &'a Model,
    dtype: LoadDtype,
    compute: FloatDType,
    /// The run's seed.
    pub(super) seed: u64,
    /// How the model stops, for objectives that let it answer.
    pub(super) generation: GenerationConfig,
    /// The training samples and the held-out ones.
    pub(super) samples: [&'a [Sample]; 2],
    /// Whose they are.
    pub(super) tasks: Tasks,
    /// What has read them.
    tokenizer: Option<&'a Tokenizer>,
}

impl<'a> Given<'a> {
    /// A base model without an adapter; other models are held in `dtype`.
    pub fn new(base: &'a Model, dtype: LoadDtype, seed: u64, generation: &GenerationConfig) -> Self {
        Self {
            base,
            dtype,
            compute: base.compute(),
            seed,
            generation: generation.clone(),
            samples: [&[], &[]],
            tasks: Tasks::default(),
            tokenizer: None,
        }
    }

    /// The same for these training samples and held-out ones.
    pub fn over(self, train: &'a [Sample], valid: &'a [Sample], tasks: &Tasks) -> Self {
        Self {
            samples: [train, valid],
            tasks: tasks.clone(),
            ..self
        }
    }

    /// The same for texts of this tokenizer.
    pub fn reading(self, tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer: Some(tokenizer),
            ..self
        }
    }

    /// How tokens are hidden from the base, each with this probability.
    ///
    /// # Errors
    /// A checkpoint without a head that fills them in, no tokenizer or one without a mask token.
    pub(super) fn masking(&self, probability: f64) -> Result<Masking> {
        let config = self.base.config();
        if !config.fills_masks() {
            return Err(Error::Plan(vec![format!(
                "model.path: this checkpoint has no head that fills in masked tokens; take one of class {}",
                config.class_of_language_model()
            )]));
        }
        let tokenizer = self.tokenizer;
        let tokenizer =
            tokenizer.ok_or_else(|| Error::Plan(vec!["model.tokenizer: masking needs a tokenizer".into()]))?;
        Ok(Masking::new(probability, self.seed, tokenizer, config.vocab_size)?)
    }

    /// The base on a plain device.
    pub fn base(&self) -> Model {
        self.base.valid()
    }

    /// A model beside the one that trains, frozen and on a plain device. The base shares its tensors with the model that trains, as
    /// long as those stay as they are.
    ///
    /// # Errors
    /// Folders that cannot be loaded; the message names their key.
    pub fn model(&self, other: Other<'_>) -> Result<Model> {
        let Other::Model {
            key,
            folder,
            adapter,
            quant,
        } = other
        else {
            return Ok(self.base());
        };
        let named = |key: &str, why: String| Error::Plan(vec![format!("{key}: {why}")]);
        let device = self.base.device().without_autodiff();
        let own = ModelConfig::from_dir(folder).map_err(|e| named(key, e.to_string()))?;
        let with_head = match adapter {
            None => Ok(own.clone()),
            Some(adapter) => own.clone().with_head_of(adapter),
        };
        let config = with_head.map_err(|e| named(key, e.to_string()))?;
        // The adapter fills a head that the checkpoint does not hold.
        let fresh = (config.head != own.head).then_some(0);
        let model = Model::load_configured(config, folder, self.dtype, quant, fresh, &device);
        let model = model.map_err(|e| named(key, e.to_string()))?;
        let mut model = model.computing_in(self.compute);
        if let Some(adapter) = adapter {
            let key = format!("{key}_adapter");
            ft_peft::adapter::load(adapter, &mut model).map_err(|e| named(&key, e.to_string()))?;
        }
        Ok(model)
    }
}
