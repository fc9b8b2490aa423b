//! The norm and the scaling of many tensors in few launches, on graphics cards.
#[cfg(feature = "gpu")]
use crate::{cube, list::Floats};
#[cfg(feature = "gpu")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
#[cfg(feature = "gpu")]
use burn::backend::{Backend, backend_extension};
use burn::backend::{Dispatch, TensorMetadata};
use burn::tensor::Tensor;
#[cfg(feature = "gpu")]
use burn::tensor::{DType, Shape};

/// Tensors of any shapes on one graphics card, in f32, f16 or bf16.
#[derive(Debug, Clone, Default)]
pub struct Many {
    tensors: Vec<FloatTensor<Dispatch>>,
}

impl Many {
    /// One more.
    ///
    /// # Errors
    /// Gives back what no kernel takes: tensors on the CPU or beside others on another device, of f64, or of no numbers.
    #[allow(clippy::result_large_err)]
    pub fn push<const D: usize>(&mut self, x: Tensor<D>) -> Result<(), Tensor<D>> {
        match on_card(&x) && beside(&self.tensors, &x) {
            true => self.tensors.push(x.into_dispatch()),
            false => return Err(x),
        }
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The sum of the squares of all their numbers, `[1]` in f32; `None` if there are none. One order, whatever runs first.
    pub fn sum_of_squares(&self) -> Option<Tensor<1>> {
        #[cfg(feature = "gpu")]
        if !self.is_empty() {
            let sum = <Dispatch as ManyOps>::sum_of_squares(Floats(self.tensors.clone()));
            return Some(Tensor::from_dispatch(sum));
        }
        None
    }

    /// Each of them times `factor` `[1]`, computed in f32; in the order in which they were pushed. What nothing else holds is
    /// written in place.
    pub fn scale(self, factor: &Tensor<1>) -> Scaled {
        #[cfg(feature = "gpu")]
        if !self.is_empty() {
            let scaled = <Dispatch as ManyOps>::scale_each(Floats(self.tensors), factor.clone().into_dispatch());
            return Scaled(scaled.0.into_iter());
        }
        let _ = factor;
        Scaled(self.tensors.into_iter())
    }
}

/// What [`Many::scale`] gives.
#[derive(Debug)]
pub struct Scaled(std::vec::IntoIter<FloatTensor<Dispatch>>);

impl Scaled {
    /// The next one, which was pushed with `D` dimensions.
    pub fn take<const D: usize>(&mut self) -> Option<Tensor<D>> {
        self.0.next().map(Tensor::from_dispatch)
    }
}

/// Whether kernels over many tensors take such a one.
#[cfg(not(feature = "gpu"))]
pub(crate) fn on_card<const D: usize>(_x: &Tensor<D>) -> bool {
    false
}

/// Whether kernels over many tensors take such a one.
#[cfg(feature = "gpu")]
pub(crate) fn on_card<const D: usize>(x: &Tensor<D>) -> bool {
    let float = matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16);
    float && x.shape().num_elements() > 0 && !crate::is_cpu(&x.device())
}

/// Whether it lies where the others do.
pub(crate) fn beside<const D: usize>(others: &[FloatTensor<Dispatch>], x: &Tensor<D>) -> bool {
    let here = || x.clone().into_dispatch().device();
    others.first().is_none_or(|first| first.device() == here())
}

/// The backend operations of [`Many`].
#[cfg(feature = "gpu")]
#[backend_extension(Cube, Fusion)]
pub trait ManyOps: Backend {
    /// `[1]` in f32.
    #[fusion(meta = |_tensors| TensorSpec::new(Shape::new([1]), DType::F32))]
    fn sum_of_squares(#[extension_type] tensors: Floats<Self>) -> FloatTensor<Self>;

    /// Each times `factor` `[1]` f32.
    #[fusion(meta = |tensors, _factor| tensors.clone())]
    fn scale_each(#[extension_type] tensors: Floats<Self>, factor: FloatTensor<Self>) -> Floats<Self>;
}

#[cfg(feature = "gpu")]
impl ManyOps for burn_cubecl::CubeBackend {
    fn sum_of_squares(tensors: Floats<Self>) -> FloatTensor<Self> {
        cube::sum_of_squares(tensors.0)
    }

    fn scale_each(tensors: Floats<Self>, factor: FloatTensor<Self>) -> Floats<Self> {
        Floats(cube::scale_each(tensors.0, factor))
    }
}
