//! What burn-train measures of a step: token-weighted, so that a virtual epoch's mean is the mean over its tokens.

use std::marker::PhantomData;
use std::sync::Arc;

use burn::tensor::{ExecutionError, Tensor, TensorReadError, Transaction};
use burn::train::ItemLazy;
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};
use ft_optim::GradNorm;

use crate::Error;
use crate::objectives::Figure;

/// What one optimizer step, or one evaluated batch, came to. Sums and counts; the tensors are read only when a metric
/// asks, on burn-train's own thread.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// The objective's loss, summed over its units.
    pub loss: Sum,
    /// Units: target tokens, or examples.
    pub count: usize,
    /// What else the objective gives for the log.
    pub figures: Vec<Figure>,
    /// Global norm of the mean gradient before clipping; none for an evaluation.
    pub grad_norm: Option<GradNorm>,
    /// Tokens of all kinds per second; 0 where it was not measured.
    pub tokens_per_s: f64,
}

impl StepOutput {
    /// Of an evaluated batch: `loss` summed over `count` units.
    pub fn evaluated(loss: f64, count: usize) -> Self {
        Self {
            loss: Sum::Host(loss),
            count,
            figures: Vec::new(),
            grad_norm: None,
            tokens_per_s: 0.0,
        }
    }
}

impl StepOutput {
    /// Several that are parts of one step: sums and counts together, without a norm.
    pub fn joined(parts: Vec<StepOutput>) -> Self {
        let mut whole = Self::evaluated(0.0, 0);
        for part in parts {
            whole.count += part.count;
            whole.loss = whole.loss.plus(part.loss);
            for figure in part.figures {
                figure.join(&mut whole.figures);
            }
        }
        whole
    }

    /// The same with its loss and the norm of its gradient on the host: one wait for the device, where they are still there, however
    /// often they are asked for afterwards.
    ///
    /// # Errors
    /// What went wrong on the device in this step.
    pub fn read(self) -> crate::Result<Self> {
        let loss = match &self.loss {
            Sum::Host(_) => None,
            Sum::Device(loss) => Some(&**loss),
        };
        let norm = self.grad_norm.as_ref().and_then(GradNorm::on_device);
        let reading = [loss, norm].into_iter().flatten();
        let reading = reading.fold(Transaction::default(), |all, tensor| all.register(tensor.clone()));
        let read = reading.try_execute().map_err(|error| Error::device(error.into()))?;
        let mut read = read
            .into_iter()
            .map(|data| data.iter::<f64>().next().unwrap_or(f64::NAN));
        let loss = loss.and_then(|_| read.next());
        let norm = norm.and_then(|_| read.next());
        Ok(Self {
            loss: loss.map_or_else(|| self.loss.clone(), Sum::Host),
            grad_norm: norm.map(GradNorm::known).or_else(|| self.grad_norm.clone()),
            ..self
        })
    }

    /// Mean of the objective's loss. Waits for the device.
    ///
    /// # Errors
    /// What went wrong on the device in this step.
    pub fn mean_loss(&self) -> crate::Result<f64> {
        let sum = match &self.loss {
            Sum::Host(sum) => *sum,
            Sum::Device(sum) => f64::from(Tensor::clone(sum).try_into_scalar::<f32>().map_err(Error::device)?),
        };
        Ok(sum / self.count.max(1) as f64)
    }

    /// Means of the objective's other figures by name. Waits for the device.
    ///
    /// # Errors
    /// What went wrong on the device in this step.
    pub fn figures(&self) -> crate::Result<Vec<(&'static str, f64)>> {
        let mean = |figure: &Figure| {
            let sum = figure.sum.clone().try_into_scalar::<f32>().map_err(Error::device)?;
            Ok((figure.name, f64::from(sum) / figure.count.max(1) as f64))
        };
        self.figures.iter().map(mean).collect()
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

impl Sum {
    fn plus(self, other: Sum) -> Sum {
        match (self, other) {
            (Sum::Host(a), Sum::Host(b)) => Sum::Host(a + b),
            (Sum::Device(a), Sum::Device(b)) => Sum::Device(Box::new(*a + *b)),
            (Sum::Host(known), Sum::Device(sum)) | (Sum::Device(sum), Sum::Host(known)) => {
                Sum::Device(Box::new(sum.add_scalar(known)))
            }
        }
    }
}

impl ItemLazy for StepOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        if let Sum::Device(loss) = &self.loss {
            loss.device().flush()?;
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

/// Name and direction of a [`MeanMetric`].
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
    /// Mean of the objective's loss.
    Loss = "Loss", false;
    /// Global norm of the mean gradient before clipping.
    Norm = "Grad Norm", false;
    /// Tokens per second, learned or not.
    Throughput = "Tokens/s", true;
}

impl Adaptor<Reading<Loss>> for StepOutput {
    fn adapt(&self) -> Reading<Loss> {
        Reading::new(Number::Sum(self.loss.clone()), self.count)
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
pub struct MeanMetric<K> {
    name: MetricName,
    state: NumericMetricState,
    kind: PhantomData<K>,
}

impl<K: Kind> Default for MeanMetric<K> {
    fn default() -> Self {
        Self {
            name: Arc::new(K::NAME.to_owned()),
            state: NumericMetricState::new(),
            kind: PhantomData,
        }
    }
}

impl<K: Kind> MeanMetric<K> {
    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name.clone()).precision(4)
    }
}

impl<K: Kind> Metric for MeanMetric<K> {
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

impl<K> Numeric for MeanMetric<K> {
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
