//! Bottleneck adapters: a small network on the output of a sub-layer (Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et
//! al. 2020, arXiv:2005.00247; the parallel form of He et al. 2021, arXiv:2110.04366).
//!
//! ```text
//! y = r + f + s · drop(a(h Wdᵀ + bd) Wuᵀ + bu)      Wd [m, hidden]   Wu [hidden, m]   m = hidden / reduction_factor
//!
//! r  residual stream before the sub-layer      pfeiffer   h = r + f, after the feed-forward block
//! f  output of the sub-layer                   houlsby    h = f, after attention and after the feed-forward block
//!                                              parallel   h = r, beside the feed-forward block, s = 4
//! ```
//!
//! BERT, DistilBERT and RoBERTa normalize what comes out: `y = LN(r + f + ..)`, where `pfeiffer` reads `h = LN(r + f)`.
//!
//! Names and defaults are those of AdapterHub (`seq_bn`, `double_seq_bn`, `par_bn`), whose folders are read and written.

use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::common::{dropout, invalid, positive};
use super::{InTraining, PeftFile, PeftMethod};
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::saved_activations::SavedActivations;
use crate::target_module::{ModuleSlot, TargetModule};
use crate::targets::{Kind, has_suffix, layer_number};

pub(crate) mod file;
mod module;
mod options;

pub use module::{Bottleneck, Reads};
pub use options::{InitWeights, NonLinearity, ReductionFactor};

/// End of the path of the module after attention.
const ATTENTION: &str = "attention_adapters";
/// Name of the same module in BERT and RoBERTa, where it is the sub-layer that ends there.
const ATTENTION_OF_BERT: &str = "attention.output";

/// Whose defaults the options have.
pub trait Preset: Sized {
    /// The options where nothing is said.
    fn defaults() -> BottleneckConfig<Self>;
}

/// Options of bottleneck adapters, named as in AdapterHub's `BnConfig`. `P` says whose defaults they have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, bound(serialize = "", deserialize = "P: Preset"))]
#[schemars(bound = "P: Preset + JsonSchema")]
pub struct BottleneckConfig<P> {
    /// Width of the model over that of the bottleneck: a number, or numbers by layer with a default, as in
    /// `{ 0 = 8, default = 16 }`.
    pub reduction_factor: ReductionFactor,
    /// Activation inside the bottleneck.
    pub non_linearity: NonLinearity,
    /// Adapters after attention.
    pub mh_adapter: bool,
    /// Adapters after the feed-forward block.
    pub output_adapter: bool,
    /// The adapter reads the sub-layer's output after the residual is added to it, not before. Not with `is_parallel`.
    pub original_ln_before: bool,
    /// The adapter reads the residual stream before the sub-layer.
    pub is_parallel: bool,
    /// Factor on the adapter's output.
    pub scaling: f64,
    /// Share of the adapter's output that is dropped in training.
    pub dropout: f64,
    /// Starting values.
    pub init_weights: InitWeights,
    /// Numbers of the layers that get no adapter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leave_out: Vec<usize>,
    /// Name of the adapter, which is part of the tensor names in its file.
    pub name: String,
    /// Nothing but the defaults depends on it.
    #[serde(skip)]
    pub preset: PhantomData<P>,
}

impl<P: Preset> Default for BottleneckConfig<P> {
    fn default() -> Self {
        P::defaults()
    }
}

/// AdapterHub's `seq_bn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub struct Pfeiffer;

impl Preset for Pfeiffer {
    fn defaults() -> BottleneckConfig<Self> {
        BottleneckConfig {
            reduction_factor: ReductionFactor::All(16.0),
            non_linearity: NonLinearity::Relu,
            mh_adapter: false,
            output_adapter: true,
            original_ln_before: true,
            is_parallel: false,
            scaling: 1.0,
            dropout: 0.0,
            init_weights: InitWeights::Bert,
            leave_out: Vec::new(),
            name: "default".into(),
            preset: PhantomData,
        }
    }
}

/// AdapterHub's `double_seq_bn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub struct Houlsby;

impl Preset for Houlsby {
    fn defaults() -> BottleneckConfig<Self> {
        BottleneckConfig {
            non_linearity: NonLinearity::Swish,
            mh_adapter: true,
            original_ln_before: false,
            ..Pfeiffer::defaults().of()
        }
    }
}

/// AdapterHub's `par_bn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub struct Parallel;

impl Preset for Parallel {
    fn defaults() -> BottleneckConfig<Self> {
        BottleneckConfig {
            reduction_factor: ReductionFactor::All(2.0),
            original_ln_before: false,
            is_parallel: true,
            scaling: 4.0,
            init_weights: InitWeights::MamAdapter,
            ..Pfeiffer::defaults().of()
        }
    }
}

impl<P> BottleneckConfig<P> {
    /// The same options under another preset.
    pub fn of<Q>(self) -> BottleneckConfig<Q> {
        let Self {
            reduction_factor,
            non_linearity,
            mh_adapter,
            output_adapter,
            original_ln_before,
            is_parallel,
            scaling,
            dropout,
            init_weights,
            leave_out,
            name,
            preset: _,
        } = self;
        BottleneckConfig {
            reduction_factor,
            non_linearity,
            mh_adapter,
            output_adapter,
            original_ln_before,
            is_parallel,
            scaling,
            dropout,
            init_weights,
            leave_out,
            name,
            preset: PhantomData,
        }
    }

    /// Width of the bottleneck at `module`; `None` where neither its layer nor `default` has a factor.
    fn width(&self, spec: &str, hidden: usize) -> Option<usize> {
        let factor = self.reduction_factor.at(layer_number(spec))?;
        Some(((hidden as f64 / factor).floor() as usize).max(1))
    }

    fn wants(&self, path: &str) -> bool {
        let at_place = if has_suffix(path, ATTENTION) || has_suffix(path, ATTENTION_OF_BERT) {
            self.mh_adapter
        } else {
            self.output_adapter
        };
        at_place && layer_number(path).is_none_or(|layer| !self.leave_out.contains(&layer))
    }

    fn reads(&self) -> Reads {
        match (self.is_parallel, self.original_ln_before) {
            (true, _) => Reads::Residual,
            (false, true) => Reads::Sum,
            (false, false) => Reads::Output,
        }
    }

    fn known_layers(&self, specs: &[&ModuleSpec]) -> Result<()> {
        let layers = || specs.iter().filter_map(|spec| layer_number(&spec.path));
        match self
            .leave_out
            .iter()
            .find(|left| !layers().any(|layer| layer == **left))
        {
            None => Ok(()),
            Some(unknown) => {
                let last = layers().max().unwrap_or(0);
                let why = format!("the model has no layer {unknown}; its layers are 0 to {last}");
                Err(invalid("leave_out", why))
            }
        }
    }
}

impl<P> PeftMethod for BottleneckConfig<P> {
    fn merges(&self) -> bool {
        false
    }

    fn check(&self) -> Result<()> {
        self.reduction_factor.check()?;
        dropout("dropout", self.dropout)?;
        positive("scaling", self.scaling)?;
        if self.is_parallel && self.original_ln_before {
            let why = "has no meaning with is_parallel, where the adapter reads the residual stream alone";
            return Err(invalid("original_ln_before", why));
        }
        if self.name.is_empty() || self.name.contains('.') {
            let why = format!(
                "\"{}\" cannot be part of a tensor's name: it must not be empty or have dots",
                self.name
            );
            return Err(invalid("name", why));
        }
        Ok(())
    }

    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice> {
        let specs: Vec<&ModuleSpec> = specs.iter().filter(|spec| spec.kind == Kind::Residual).collect();
        if specs.is_empty() {
            let why = "there is no place for a bottleneck adapter in this model; decoders, BERT, DistilBERT and RoBERTa have some";
            return Err(invalid("method", why));
        }
        self.known_layers(&specs)?;
        let adapted: Vec<&ModuleSpec> = specs.into_iter().filter(|spec| self.wants(&spec.path)).collect();
        if adapted.is_empty() {
            let why = "no module is left for an adapter: set mh_adapter or output_adapter, and leave out fewer layers";
            return Err(invalid("leave_out", why));
        }
        if let Some(spec) = adapted.iter().find(|p| self.width(&p.path, p.dims[0]).is_none()) {
            let why = format!("{} has no factor; name its layer or a default", spec.path);
            return Err(invalid("reduction_factor", why));
        }
        Ok(Choice {
            adapted: adapted.into_iter().map(|spec| spec.path.clone()).collect(),
            ..Choice::default()
        })
    }

    fn parameters_at(&self, spec: &ModuleSpec) -> usize {
        let hidden = spec.dims[0];
        let width = self.width(&spec.path, hidden).unwrap_or(0);
        2 * hidden * width + width + hidden
    }

    fn saved_at(&self, spec: &ModuleSpec) -> SavedActivations {
        let width = self.width(&spec.path, spec.dims[0]).unwrap_or(0);
        SavedActivations {
            // The norm before the sub-layer keeps the residual stream already.
            input: self.reads() != Reads::Residual,
            copies: true,
            // The inside before its activation.
            per_token: width,
            wide: width,
            ..SavedActivations::default()
        }
    }

    fn fill(&self, module: &mut TargetModule<'_>, seed: u64) {
        let ModuleSlot::Residual { slot, hidden, device } = &mut module.slot else {
            unreachable!("refused by `choose`")
        };
        let width = self.width(&module.path, *hidden).expect("checked by `choose`");
        let start = self.init_weights.start([width, *hidden], seed, &module.path, device);
        let salt = ft_seed::salt(&module.path);
        slot.adapter =
            Some(Bottleneck::new(start, self.reads(), self.non_linearity, self.scaling).dropping(self.dropout, salt));
    }
}

impl<P> InTraining for BottleneckConfig<P> {
    fn learning_rate(&self) -> f64 {
        // Within the papers' grids (3e-5 to 3e-3 for Houlsby's), and found by trial (docs/guide): 3e-4 learns too slowly.
        1e-3
    }
}

impl<P> PeftFile for BottleneckConfig<P> {
    fn to_adapterhub(&self) -> Option<(&str, Value)> {
        Some((&self.name, file::write(self)))
    }
}
