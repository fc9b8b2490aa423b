//! What an objective is made from, beside its options.

use std::path::Path;

use burn::module::Module;
use burn::tensor::FloatDType;
use ft_data::Sample;
use ft_infer::GenerationConfig;
use ft_model::{LoadDtype, Model};
use ft_quant::Scheme;

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
        }
    }

    /// The same for these training samples and held-out ones.
    pub fn over(self, train: &'a [Sample], valid: &'a [Sample]) -> Self {
        Self {
            samples: [train, valid],
            ..self
        }
    }

    /// The base on a plain device.
    pub fn base(&self) -> Model {
        self.base.valid()
    }

    /// The model in `folder`, which `key` names, with an adapter, on the plain device of the base.
    pub fn load(
        &self,
        key: &str,
        folder: &Path,
        adapter: Option<(&str, &Path)>,
        quant: Option<Scheme>,
    ) -> Result<Model> {
        let named = |key: &str, why: String| Error::Plan(vec![format!("{key}: {why}")]);
        let device = self.base.device().without_autodiff();
        let model = Model::load_quantized(folder, self.dtype, quant, &device).map_err(|e| named(key, e.to_string()))?;
        let mut model = model.computing_in(self.compute);
        if let Some((key, adapter)) = adapter {
            ft_peft::adapter::load(adapter, &mut model).map_err(|e| named(key, e.to_string()))?;
        }
        Ok(model)
    }
}
