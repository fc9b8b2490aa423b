use burn::module::Module;
use burn::tensor::{DType, Tensor};

use crate::Leaf;

/// Which way round the checkpoint holds a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`, as `torch.nn.Linear`.
    OutIn,
    /// `[in, out]`, as GPT-2's `Conv1D`.
    InOut,
}

/// A projection matrix as it is stored.
#[derive(Module, Debug)]
pub struct Weight {
    /// The matrix in the checkpoint's own layout.
    pub value: Leaf<2>,
    /// That layout.
    #[module(skip)]
    pub layout: Layout,
}

impl Weight {
    /// A frozen matrix, given in `layout`.
    pub fn new(value: Tensor<2>, layout: Layout) -> Self {
        Self {
            value: Leaf::Frozen(value),
            layout,
        }
    }

    /// `x · Wᵀ`, for x `[.., in]`. No dense copy of a frozen matrix is kept for the backward pass.
    pub fn project<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let weight = self.dense();
        let weight = if weight.dtype() == x.dtype() {
            weight
        } else {
            weight.cast(x.dtype())
        };
        ft_kernels::linear(x, weight)
    }

    /// The matrix as `[out, in]`; a view of the stored tensor where the layout allows.
    pub fn dense(&self) -> Tensor<2> {
        self.orient(self.value.val())
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        let [rows, cols] = self.value.dims();
        match self.layout {
            Layout::OutIn => [rows, cols],
            Layout::InOut => [cols, rows],
        }
    }

    /// Type of the stored numbers.
    pub fn dtype(&self) -> DType {
        self.value.val().dtype()
    }

    /// Replaces the matrix by `dense`, given as `[out, in]`, in the stored layout and type.
    pub fn set_dense(&mut self, dense: Tensor<2>) {
        let dense = dense.cast(self.dtype());
        self.value.set(self.orient(dense));
    }

    fn orient(&self, matrix: Tensor<2>) -> Tensor<2> {
        match self.layout {
            Layout::OutIn => matrix,
            Layout::InOut => matrix.transpose(),
        }
    }
}
