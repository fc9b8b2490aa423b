//! The operators that the portable compositions are written in, over any backend's float tensors.
#[cfg(feature = "gpu")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Scalar, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape, Slice, Tensor};

/// A float tensor of backend `B`.
pub(crate) struct Val<B: Backend>(pub(crate) FloatTensor<B>);

impl<B: Backend> Clone for Val<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Val<B> {
    pub(crate) fn dtype(&self) -> DType {
        self.0.dtype()
    }

    pub(crate) fn dims(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    /// Number of dimensions minus one.
    pub(crate) fn last(&self) -> usize {
        self.0.shape().num_dims() - 1
    }

    /// In another element type; itself if it has that type.
    pub(crate) fn cast(self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            self
        } else {
            Self(B::float_cast(self.0, FloatDType::from(dtype)))
        }
    }

    /// In the type to compute in: f64 stays, everything else becomes f32.
    pub(crate) fn wide(self) -> Self {
        let dtype = wide(self.dtype());
        self.cast(dtype)
    }

    pub(crate) fn scale(self, by: f64) -> Self {
        Self(B::float_mul_scalar(self.0, Scalar::from(by)))
    }

    pub(crate) fn shift(self, by: f64) -> Self {
        Self(B::float_add_scalar(self.0, Scalar::from(by)))
    }

    pub(crate) fn square(self) -> Self {
        self.clone() * self
    }

    pub(crate) fn exp(self) -> Self {
        Self(B::float_exp(self.0))
    }

    pub(crate) fn sigmoid(self) -> Self {
        self.scale(-1.0).exp().shift(1.0).recip()
    }

    /// Bounded softly, where there is a cap: `cap · tanh(x / cap)`.
    pub(crate) fn bounded(self, cap: Option<f64>) -> Self {
        match cap {
            None => self,
            Some(cap) => Self(B::float_tanh(self.scale(1.0 / cap).0)).scale(cap),
        }
    }

    /// Slopes to bounded numbers, as slopes to the numbers themselves.
    pub(crate) fn unbounded(self, bounded: &Self, cap: Option<f64>) -> Self {
        match cap {
            None => self,
            Some(cap) => {
                let slope = bounded.clone().scale(1.0 / cap).square().scale(-1.0).shift(1.0);
                let dtype = self.dtype();
                self * slope.cast(dtype)
            }
        }
    }

    pub(crate) fn recip(self) -> Self {
        Self(B::float_recip(self.0))
    }

    pub(crate) fn rsqrt(self) -> Self {
        Self(B::float_sqrt(self.0)).recip()
    }

    /// Sum over the last dimension, which stays with size 1.
    pub(crate) fn sum_last(self) -> Self {
        let dim = self.last();
        Self(B::float_sum_dim(self.0, dim))
    }

    /// Mean over the last dimension, which stays with size 1.
    pub(crate) fn mean_last(self) -> Self {
        let n = self.dims()[self.last()];
        self.sum_last().scale(1.0 / n as f64)
    }

    /// `[.., d]` -> `[rows, d]`.
    pub(crate) fn rows(self) -> Self {
        let dims = self.dims();
        let width = dims[dims.len() - 1];
        let rows = dims[..dims.len() - 1].iter().product();
        self.reshape(&[rows, width])
    }

    /// Sum over all dimensions but the last: `[.., d]` -> `[d]`.
    pub(crate) fn sum_rows(self) -> Self {
        let rows = self.rows();
        let width = rows.dims()[1];
        Self(B::float_sum_dim(rows.0, 0)).reshape(&[width])
    }

    pub(crate) fn reshape(self, dims: &[usize]) -> Self {
        if self.dims() == dims {
            self
        } else {
            Self(B::float_reshape(self.0, Shape::from(dims.to_vec())))
        }
    }

    pub(crate) fn permute(self, axes: &[usize]) -> Self {
        Self(B::float_permute(self.0, axes))
    }

    /// The transposed matrix (or batch of matrices).
    pub(crate) fn t(self) -> Self {
        let last = self.last();
        Self(B::float_swap_dims(self.0, last - 1, last))
    }

    pub(crate) fn matmul(self, other: Self) -> Self {
        Self(B::float_matmul(self.0, other.0))
    }

    /// `start..start + len` of a dimension.
    pub(crate) fn narrow(self, dim: usize, start: usize, len: usize) -> Self {
        let dims = self.dims();
        if start == 0 && len == dims[dim] {
            return self;
        }
        let range = |(d, &size): (usize, &usize)| if d == dim { (start, start + len) } else { (0, size) };
        let slices: Vec<Slice> = dims
            .iter()
            .enumerate()
            .map(range)
            .map(|(a, b)| Slice::new(a as isize, Some(b as isize), 1))
            .collect();
        Self(B::float_slice(self.0, &slices))
    }

    pub(crate) fn cat(parts: Vec<Self>, dim: usize) -> Self {
        Self(B::float_cat(parts.into_iter().map(|p| p.0).collect(), dim))
    }
}

/// The type to compute in.
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

macro_rules! operator {
    ($($trait:ident $name:ident $op:ident),*) => {$(
        impl<B: Backend> std::ops::$trait for Val<B> {
            type Output = Self;
            /// Element by element; dimensions of size 1 are repeated.
            fn $name(self, other: Self) -> Self {
                Self(B::$op(self.0, other.0))
            }
        }
    )*};
}
operator!(Add add float_add, Sub sub float_sub, Mul mul float_mul, Div div float_div);

/// `x` in the type of `like`; the cast is differentiable.
pub(crate) fn as_type_of<const D: usize, const E: usize>(like: &Tensor<E>, x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == like.dtype() {
        x
    } else {
        x.cast(FloatDType::from(like.dtype()))
    }
}

/// What fusion is told of a gradient in the shape of a weight `[d]`: it has the type that x is computed in.
#[cfg(feature = "gpu")]
pub(crate) fn widened(weight: &TensorSpec, x: &TensorSpec) -> TensorSpec {
    TensorSpec::new(weight.shape.clone(), wide(x.dtype))
}

/// The same for two of them as rows, `[2, d]`.
#[cfg(feature = "gpu")]
pub(crate) fn widened_pair(weight: &TensorSpec, x: &TensorSpec) -> TensorSpec {
    TensorSpec::new(Shape::new([2, weight.shape[0]]), wide(x.dtype))
}

/// Stops an attempt to differentiate the backward pass of an operation.
pub(crate) fn once(operation: &str) -> ! {
    panic!("the gradient of {operation} cannot be differentiated again")
}

/// The shape with another last dimension.
pub(crate) fn with_last(shape: &Shape, width: usize) -> Shape {
    let mut shape = shape.clone();
    *shape.last_mut().expect("at least one dimension") = width;
    shape
}
