//! Scaling and clipping of all gradients of a module at once.
//!
//! No function here waits for the device: the norm and the clipping coefficient stay where the gradients are, and
//! [`GradNorm::value`] is the only read.

use std::collections::HashSet;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor, TensorReadError};
use ft_kernels::{Many, Scaled};

#[cfg(feature = "flex")]
use crate::host;

/// The Euclidean norm of all gradients together, before clipping. Reading it from a GPU waits for the backward pass to
/// end, so read it only when it is shown.
#[derive(Debug, Clone)]
pub struct GradNorm(Amount);

impl GradNorm {
    /// One that was read.
    pub fn known(norm: f64) -> Self {
        Self(Amount::Host(norm))
    }

    /// What is still on the device, `[1]` in f32.
    pub fn on_device(&self) -> Option<&Tensor<1>> {
        match &self.0 {
            Amount::Host(_) => None,
            Amount::Device(norm) => Some(norm),
        }
    }

    /// The norm. Waits for the device. NaN or infinite when a gradient is.
    ///
    /// # Panics
    /// When the device failed before it came to the norm.
    pub fn value(&self) -> f64 {
        self.try_value()
            .unwrap_or_else(|error| panic!("the gradient norm: {error}"))
    }

    /// [`GradNorm::value`], with what went wrong on the device in the passes that lead to it: the norm depends on every
    /// gradient.
    ///
    /// # Errors
    /// The device's own.
    pub fn try_value(&self) -> Result<f64, TensorReadError> {
        match &self.0 {
            Amount::Host(norm) => Ok(*norm),
            Amount::Device(norm) => Ok((**norm).clone().try_into_scalar::<f32>()?.into()),
        }
    }

    /// The norm of several sets of gradients together, from the norm of each. Waits for no device.
    pub fn joined(parts: impl IntoIterator<Item = GradNorm>) -> Self {
        let mut host = 0.0;
        let mut device: Option<Tensor<1>> = None;
        for GradNorm(part) in parts {
            match part {
                Amount::Host(norm) => host += norm * norm,
                Amount::Device(norm) => {
                    let squares = norm.square();
                    device = Some(match device {
                        Some(sum) => sum + squares,
                        None => squares,
                    });
                }
            }
        }
        Self(match device {
            None => Amount::Host(host.sqrt()),
            Some(sum) => Amount::Device(sum.add_scalar(host).sqrt().into()),
        })
    }
}

/// A scalar that is either known or still being computed.
#[derive(Debug, Clone)]
enum Amount {
    Host(f64),
    /// `[1]`, f32.
    Device(Box<Tensor<1>>),
}

/// Multiplies every gradient by `factor`. A loss that is a sum over tokens becomes a mean over an accumulation window
/// with `factor = 1 / tokens of the window`, applied once at its end.
pub fn scale_grads<M: Module>(module: &M, mut grads: GradientsParams, factor: f64) -> GradientsParams {
    scale(module, &mut grads, Amount::Host(factor));
    grads
}

/// Scales all gradients so that their common norm is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_` does:
/// by `min(1, max_norm / (norm + 1e-6))`. Returns them with the norm before clipping.
pub fn clip_grad_norm<M: Module>(module: &M, grads: GradientsParams, max_norm: f64) -> (GradientsParams, GradNorm) {
    scale_and_clip(module, grads, 1.0, Some(max_norm))
}

/// [`scale_grads`], then [`clip_grad_norm`] unless `max_norm` is none, with one multiplication per gradient instead of
/// two. The norm is that of the scaled gradients.
pub fn scale_and_clip<M: Module>(
    module: &M,
    mut grads: GradientsParams,
    factor: f64,
    max_norm: Option<f64>,
) -> (GradientsParams, GradNorm) {
    let (norm, by) = match sum_of_squares(module, &grads) {
        Amount::Host(squares) => return scale_and_clip_by(module, grads, factor, max_norm, squares),
        Amount::Device(squares) => {
            let norm = squares.sqrt().mul_scalar(factor.abs());
            let by = max_norm.map(|max| device_coefficient(norm.clone(), max).mul_scalar(factor));
            let by = by.map_or(Amount::Host(factor), |by| Amount::Device(by.into()));
            (Amount::Device(norm.into()), by)
        }
    };
    scale(module, &mut grads, by);
    (grads, GradNorm(norm))
}

/// [`scale_and_clip`] where the sum of squares is known: of several processes, each may have the gradients of a part of the parameters.
pub fn scale_and_clip_by<M: Module>(
    module: &M,
    mut grads: GradientsParams,
    factor: f64,
    max_norm: Option<f64>,
    squares: f64,
) -> (GradientsParams, GradNorm) {
    let norm = squares.sqrt() * factor.abs();
    scale(module, &mut grads, Amount::Host(coefficient(norm, max_norm) * factor));
    (grads, GradNorm(Amount::Host(norm)))
}

/// The sum of squares of each parameter's gradient, in the order in which the module is visited; 0 where there is none. Waits for the device.
///
/// # Errors
/// What went wrong on the device.
pub fn squares_of_each<M: Module>(module: &M, grads: &GradientsParams) -> Result<Vec<f64>, TensorReadError> {
    let mut each = Each {
        grads,
        seen: HashSet::new(),
        known: Vec::new(),
        waiting: Vec::new(),
    };
    module.visit(&mut each);
    let Each { mut known, waiting, .. } = each;
    let (places, sums): (Vec<usize>, Vec<Tensor<1>>) = waiting.into_iter().unzip();
    if !sums.is_empty() {
        let sums = Tensor::cat(sums, 0).try_into_vec_as::<f32>()?;
        places
            .into_iter()
            .zip(sums)
            .for_each(|(place, sum)| known[place] = sum.into());
    }
    Ok(known)
}

struct Each<'a> {
    grads: &'a GradientsParams,
    seen: HashSet<ParamId>,
    known: Vec<f64>,
    /// Of which place, `[1]` in f32.
    waiting: Vec<(usize, Tensor<1>)>,
}

impl ModuleVisitor for Each<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.seen.insert(param.id) {
            return;
        }
        self.known.push(0.0);
        let place = self.known.len() - 1;
        match self.grads.get::<D>(param.id) {
            None => {}
            #[cfg(feature = "flex")]
            Some(grad) if host::holds(&grad) => self.known[place] = host::sum_of_squares(grad),
            Some(grad) => self.waiting.push((place, grad.cast(FloatDType::F32).square().sum())),
        }
    }
}

/// A norm that is not a number gives a coefficient that is not one either, as in torch: bad gradients stay visible.
fn coefficient(norm: f64, max_norm: Option<f64>) -> f64 {
    let ratio = max_norm.map_or(1.0, |max| max / (norm + 1e-6));
    if ratio > 1.0 { 1.0 } else { ratio }
}

fn device_coefficient(norm: Tensor<1>, max_norm: f64) -> Tensor<1> {
    norm.add_scalar(1e-6).recip().mul_scalar(max_norm).clamp_max(1.0)
}

fn sum_of_squares<M: Module>(module: &M, grads: &GradientsParams) -> Amount {
    let mut sum = Squares {
        grads,
        seen: HashSet::new(),
        host: 0.0,
        device: None,
        many: Many::default(),
    };
    module.visit(&mut sum);
    let device = match (sum.device, sum.many.sum_of_squares()) {
        (Some(device), Some(many)) => Some(device + many),
        (device, many) => device.or(many),
    };
    match device {
        None => Amount::Host(sum.host),
        Some(device) => Amount::Device(device.add_scalar(sum.host).into()),
    }
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    /// A tied parameter is visited in every module, but has one gradient.
    seen: HashSet<ParamId>,
    host: f64,
    device: Option<Tensor<1>>,
    /// Those that kernels take together.
    many: Many,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = self.grads.get::<D>(param.id);
        let Some(grad) = grad.filter(|_| self.seen.insert(param.id)) else {
            return;
        };
        #[cfg(feature = "flex")]
        if host::holds(&grad) {
            self.host += host::sum_of_squares(grad);
            return;
        }
        let Err(grad) = self.many.push(grad) else {
            return;
        };
        let squares = grad.cast(FloatDType::F32).square().sum();
        self.device = Some(match self.device.take() {
            Some(sum) => sum + squares,
            None => squares,
        });
    }
}

fn scale<M: Module>(module: &M, grads: &mut GradientsParams, by: Amount) {
    if matches!(by, Amount::Host(1.0)) {
        return;
    }
    let mut scale = Scale {
        grads,
        seen: HashSet::new(),
        by,
        many: Many::default(),
        waiting: HashSet::new(),
    };
    module.visit(&mut scale);
    let Scale { by, many, waiting, .. } = scale;
    if let Amount::Device(factor) = &by
        && !many.is_empty()
    {
        module.visit(&mut Return {
            grads,
            scaled: many.scale(factor),
            waiting,
        });
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    seen: HashSet<ParamId>,
    by: Amount,
    /// Those that kernels take together, and whose they are.
    many: Many,
    waiting: HashSet<ParamId>,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.seen.insert(param.id) {
            return;
        }
        let Some(mut grad) = self.grads.remove::<D>(param.id) else {
            return;
        };
        if let Amount::Device(_) = self.by {
            grad = match self.many.push(grad) {
                Err(grad) => grad,
                Ok(()) => {
                    self.waiting.insert(param.id);
                    return;
                }
            };
        }
        self.grads.register(param.id, scaled(grad, &self.by));
    }
}

/// Puts gradients back that were scaled together, in the order in which they were taken.
struct Return<'a> {
    grads: &'a mut GradientsParams,
    scaled: Scaled,
    waiting: HashSet<ParamId>,
}

impl ModuleVisitor for Return<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.waiting.remove(&param.id)
            && let Some(grad) = self.scaled.take::<D>()
        {
            self.grads.register(param.id, grad);
        }
    }
}

fn scaled<const D: usize>(grad: Tensor<D>, by: &Amount) -> Tensor<D> {
    match by {
        Amount::Host(factor) => {
            #[cfg(feature = "flex")]
            if host::holds(&grad) {
                return host::scale(grad, *factor as f32);
            }
            grad.mul_scalar(*factor)
        }
        Amount::Device(factor) => {
            let dtype: FloatDType = grad.dtype().into();
            grad * (**factor).clone().cast(dtype).reshape([1; D])
        }
    }
}
