//! All trainable numbers as one vector: values, gradients, and what can be computed of them.

use std::collections::HashMap;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use ft_model::Model;
use ft_optim::{NamedParameter, named_parameters};

mod travel;

/// A flat tensor `[n]` in f32 for every trainable parameter, in the order of the model; none where a gradient is missing.
#[derive(Clone, Debug, Default)]
pub struct Vector(Vec<Option<Tensor<1>>>);

#[cfg(test)]
impl From<Vec<Tensor<1>>> for Vector {
    fn from(parts: Vec<Tensor<1>>) -> Self {
        Self(parts.into_iter().map(Some).collect())
    }
}

impl Vector {
    /// The gradients.
    pub fn of(model: &Model, grads: &GradientsParams) -> Self {
        Self::collect(model, Some(grads), None)
    }

    /// The present values.
    pub fn values(model: &Model) -> Self {
        Self::collect(model, None, None)
    }

    /// Those of the parameters at these places; the others are missing.
    pub(crate) fn values_at(model: &Model, places: Range<usize>) -> Self {
        Self::collect(model, None, Some(places))
    }

    fn collect(model: &Model, grads: Option<&GradientsParams>, only: Option<Range<usize>>) -> Self {
        let mut collect = Collect {
            places: places(model),
            only,
            grads,
            parts: Vec::new(),
        };
        collect.parts.resize(collect.places.len(), None);
        model.visit(&mut collect);
        Self(collect.parts)
    }

    /// The vector as gradients of the model's parameters.
    pub fn into_grads(self, model: &Model) -> GradientsParams {
        let mut spread = Spread {
            places: places(model),
            parts: self.0,
            grads: GradientsParams::new(),
        };
        model.visit(&mut spread);
        spread.grads
    }

    /// The model with these values in the place of its own, on a plain device; everything else is shared.
    pub fn put(&self, model: &Model) -> Model {
        self.put_back(model.clone()).valid()
    }

    /// The model with these values in the place of its own.
    pub fn put_back(&self, model: Model) -> Model {
        let mut put = Put {
            places: places(&model),
            parts: &self.0,
        };
        model.map(&mut put)
    }

    /// The vector `self + factor · other`. What is missing counts as 0.
    pub fn plus(self, other: &Vector, factor: f64) -> Self {
        self.zip(other, |a, b| match (a, b) {
            (Some(a), Some(b)) => Some(a + b.clone().mul_scalar(factor)),
            (None, Some(b)) => Some(b.clone().mul_scalar(factor)),
            (a, None) => a,
        })
    }

    /// Element by element; missing where either is.
    pub fn map2(self, other: &Vector, both: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Self {
        self.zip(other, |a, b| Some(both(a?, b.clone()?)))
    }

    /// Each part by itself.
    pub fn map(self, part: impl Fn(Tensor<1>) -> Tensor<1>) -> Self {
        Self(self.0.into_iter().map(|a| a.map(&part)).collect())
    }

    fn zip(self, other: &Vector, both: impl Fn(Option<Tensor<1>>, &Option<Tensor<1>>) -> Option<Tensor<1>>) -> Self {
        Self(self.0.into_iter().zip(&other.0).map(|(a, b)| both(a, b)).collect())
    }

    /// The inner product, summed in f64. Waits for the device.
    pub fn dot(&self, other: &Vector) -> f64 {
        let parts = self
            .0
            .iter()
            .zip(&other.0)
            .filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref()?)));
        parts.map(|(a, b)| dot(a, b)).sum()
    }

    /// The sum of all numbers, `[1]`, in f32; none of a vector without parts.
    pub fn total(&self) -> Option<Tensor<1>> {
        let sums = self.0.iter().flatten().map(|part| part.clone().sum());
        sums.reduce(|a, b| a + b)
    }

    /// The same numbers in memory of their own: values that train are written in place where nobody else holds them.
    pub fn copied(self) -> Self {
        self.map(|part| {
            let device = part.device();
            let data = part.into_data();
            Tensor::from_data(data, (&device, DType::F32))
        })
    }

    /// Values by parameter path, each as `<name>.<path>`.
    pub fn saved(&self, name: &str, model: &Model) -> Vec<(String, TensorData)> {
        let params = named_parameters(model).into_iter().zip(&self.0);
        let saved =
            params.filter_map(|(param, part)| Some((format!("{name}.{}", param.path), part.clone()?.into_data())));
        saved.collect()
    }

    /// Takes back what [`saved`](Self::saved) gave.
    ///
    /// # Errors
    /// A tensor that is missing or of another size.
    pub fn load(
        name: &str,
        model: &Model,
        tensors: &mut HashMap<String, TensorData>,
    ) -> std::result::Result<Self, String> {
        let device = model.device().without_autodiff();
        let part = |param: NamedParameter| {
            let key = format!("{name}.{}", param.path);
            let data = tensors.remove(&key).ok_or_else(|| format!("{key}: missing"))?;
            let numbers: usize = param.shape.iter().product();
            if data.shape().to_vec() != [numbers] || data.dtype() != DType::F32 {
                let (shape, dtype) = (data.shape(), data.dtype());
                return Err(format!(
                    "{key}: [{numbers}] numbers in f32 expected, not {shape:?} in {dtype:?}"
                ));
            }
            Ok(Some(Tensor::from_data(data, (&device, DType::F32))))
        };
        named_parameters(model)
            .into_iter()
            .map(part)
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }
}

/// Sums of so many numbers are read back one by one; a longer f32 sum would lose digits.
const CHUNK: usize = 4096;

fn dot(a: &Tensor<1>, b: &Tensor<1>) -> f64 {
    if ft_kernels::is_cpu(&a.device()) {
        let (a, b) = (a.to_data(), b.to_data());
        if let (Ok(a), Ok(b)) = (a.as_slice::<f32>(), b.as_slice::<f32>()) {
            return a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        }
    }
    sum(&(a.clone() * b.clone()))
}

fn sum(a: &Tensor<1>) -> f64 {
    let [n] = a.dims();
    let whole = n / CHUNK * CHUNK;
    let mut sums: Vec<Tensor<1>> = Vec::new();
    if whole > 0 {
        let rows: Tensor<2> = a.clone().narrow(0, 0, whole).reshape([n / CHUNK, CHUNK]);
        sums.push(rows.sum_dim(1).reshape([n / CHUNK]));
    }
    if whole < n {
        sums.push(a.clone().narrow(0, whole, n - whole).sum());
    }
    let sums = sums
        .into_iter()
        .map(|part| part.into_data().try_to_vec::<f32>().unwrap_or_default());
    sums.flatten().map(f64::from).sum()
}

fn count(param: &NamedParameter) -> usize {
    param.shape.iter().product()
}

fn places(model: &Model) -> HashMap<ParamId, usize> {
    let params = named_parameters(model).into_iter().enumerate();
    params.map(|(place, param)| (param.id, place)).collect()
}

struct Collect<'a> {
    places: HashMap<ParamId, usize>,
    /// Where not all are asked for.
    only: Option<Range<usize>>,
    grads: Option<&'a GradientsParams>,
    parts: Vec<Option<Tensor<1>>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(place) = self.places.get(&param.id) else {
            return;
        };
        if self.only.as_ref().is_some_and(|only| !only.contains(place)) {
            return;
        }
        let tensor = match self.grads {
            Some(grads) => grads.get::<D>(param.id),
            None => Some(param.val().without_autodiff()),
        };
        self.parts[*place] = tensor.map(|tensor| {
            let numbers = tensor.shape().num_elements();
            tensor.cast(FloatDType::F32).reshape([numbers])
        });
    }
}

struct Put<'a> {
    places: HashMap<ParamId, usize>,
    parts: &'a [Option<Tensor<1>>],
}

impl ModuleMapper for Put<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let place = self.places.get(&param.id);
        let Some(part) = place.and_then(|place| self.parts[*place].clone()) else {
            return param;
        };
        let (shape, dtype, trains) = (param.dims(), param.dtype(), param.is_require_grad());
        let value = part.reshape(shape).cast(dtype).autodiff();
        Param::initialized(param.id, value).set_require_grad(trains)
    }
}

struct Spread {
    places: HashMap<ParamId, usize>,
    parts: Vec<Option<Tensor<1>>>,
    grads: GradientsParams,
}

impl ModuleVisitor for Spread {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let place = self.places.get(&param.id);
        if let Some(part) = place.and_then(|place| self.parts[*place].take()) {
            self.grads.register(param.id, part.reshape(param.dims()));
        }
    }
}
