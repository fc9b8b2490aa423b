//! What burn-train measures of a step: token-weighted, so that a virtual epoch's mean is the mean over its tokens.

use std::marker::PhantomData;
use std::sync::Arc;

use burn::tensor::{ExecutionError, Tensor, TensorReadError};
use burn::train::ItemLazy;
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};
use ft_optim::GradNorm;

/// What one optimizer step, or one evaluated batch, came to. Sums and counts; the tensors are read only when a metric
/// asks, on burn-train's own thread.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// Sum of the negative log-likelihood in nats over the learned tokens.
    pub nll: Sum,
    /// Learned tokens.
    pub tokens: usize,
    /// Global norm of the mean gradient before clipping; none for an evaluation.
    pub grad_norm: Option<GradNorm>,
    /// Tokens of all kinds per second; 0 where it was not measured.
    pub tokens_per_s: f64,
}

impl StepOutput {
    /// Of an evaluated batch: `nll` in nats over `tokens` learned tokens.
    pub fn evaluated(nll: f64, tokens: usize) -> Self {
        Self {
            nll: Sum::Host(nll),
            tokens,
            grad_norm: None,
            tokens_per_s: 0.0,
        }
    }
}

/// A sum that is either known or still on the device.
#[derive(Clone, Debug)]
pub enum Sum {
    /// Known.
    Host(f64),
    /// `[1]`, without autodiff.
    Device(Box<Tensor<1>>),
}

impl ItemLazy for StepOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        if let Sum::Device(nll) = &self.nll {
            nll.device().flush()?;
        }
        Ok(self)
    }
}

/// A number that is an average over `weight` units, still on the device.
pub struct Reading<K> {
    value: Number,
    weight: usize,
    kind: PhantomData<K>,
}

enum Number {
    Known(f64),
    /// A sum over `weight` units.
    Sum(Sum),
    Norm(GradNorm),
}

impl<K> Reading<K> {
    fn new(value: Number, weight: usize) -> Self {
        Self {
            value,
            weight,
            kind: PhantomData,
        }
    }

    fn read(&self) -> Result<f64, TensorReadError> {
        match &self.value {
            Number::Known(value) => Ok(*value),
            Number::Sum(Sum::Host(sum)) => Ok(sum / self.weight.max(1) as f64),
            Number::Sum(Sum::Device(sum)) => Ok(sum.clone().try_into_scalar::<f64>()? / self.weight.max(1) as f64),
            Number::Norm(norm) => Ok(norm.value()),
        }
    }
}

/// Name and direction of a [`Gauge`].
pub trait Kind: Clone + Send + Sync + 'static {
    /// Shown, and the key in the event store.
    const NAME: &'static str;
    /// For the renderer's arrows.
    const HIGHER_IS_BETTER: bool;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $higher:literal;)+) => {
        $($(#[$doc])* #[derive(Clone)] pub struct $kind;
        impl Kind for $kind {
            const NAME: &'static str = $name;
            const HIGHER_IS_BETTER: bool = $higher;
        })+
    };
}

kinds! {
    /// Mean negative log-likelihood in nats per learned token.
    Loss = "Loss", false;
    /// Global norm of the mean gradient before clipping.
    Norm = "Grad Norm", false;
    /// Tokens per second, learned or not.
    Throughput = "Tokens/s", true;
}

impl Adaptor<Reading<Loss>> for StepOutput {
    fn adapt(&self) -> Reading<Loss> {
        Reading::new(Number::Sum(self.nll.clone()), self.tokens)
    }
}

impl Adaptor<Reading<Norm>> for StepOutput {
    fn adapt(&self) -> Reading<Norm> {
        let norm = self.grad_norm.clone();
        Reading::new(norm.map_or(Number::Known(f64::NAN), Number::Norm), 1)
    }
}

impl Adaptor<Reading<Throughput>> for StepOutput {
    fn adapt(&self) -> Reading<Throughput> {
        Reading::new(Number::Known(self.tokens_per_s), 1)
    }
}

/// A metric that shows a [`Reading`] and its weighted mean over the virtual epoch.
#[derive(Clone)]
pub struct Gauge<K> {
    name: MetricName,
    state: NumericMetricState,
    kind: PhantomData<K>,
}

impl<K: Kind> Default for Gauge<K> {
    fn default() -> Self {
        Self {
            name: Arc::new(K::NAME.to_owned()),
            state: NumericMetricState::new(),
            kind: PhantomData,
        }
    }
}

impl<K: Kind> Gauge<K> {
    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name.clone()).precision(4)
    }
}

impl<K: Kind> Metric for Gauge<K> {
    type Input = Reading<K>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: K::HIGHER_IS_BETTER,
        }
        .into()
    }

    fn update(&mut self, item: &Reading<K>, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        self.state.update(item.read()?, item.weight);
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl<K> Numeric for Gauge<K> {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}
