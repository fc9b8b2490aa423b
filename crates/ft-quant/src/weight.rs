use burn::module::Module;
use burn::tensor::{DType, Tensor};
use ft_kernels::Output;

use crate::{Leaf, Packed};

/// Which way round the checkpoint holds a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`, as `torch.nn.Linear`.
    OutIn,
    /// `[in, out]`, as GPT-2's `Conv1D`.
    InOut,
}

impl Layout {
    /// Between `[out, in]` and this layout, either way.
    pub(crate) fn orient(self, matrix: Tensor<2>) -> Tensor<2> {
        match self {
            Layout::OutIn => matrix,
            Layout::InOut => matrix.transpose(),
        }
    }
}

/// How the numbers of a matrix are stored.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // one per layer
pub enum Storage {
    /// As floats, in the checkpoint's own layout.
    Dense(Leaf<2>),
    /// As codes, always frozen.
    Packed(Packed),
}

impl Storage {
    /// The matrix in the checkpoint's layout; unpacked, a temporary.
    pub fn val(&self) -> Tensor<2> {
        match self {
            Storage::Dense(leaf) => leaf.val(),
            Storage::Packed(packed) => packed.value(),
        }
    }

    /// Whether the matrix trains.
    pub fn is_trained(&self) -> bool {
        matches!(self, Storage::Dense(leaf) if leaf.is_trained())
    }

    /// Makes the matrix a trainable f32 parameter with its present value: a packed one is unpacked.
    pub fn train(&mut self) {
        self.unpack();
        if let Storage::Dense(leaf) = self {
            leaf.train();
        }
    }

    /// Makes the matrix a constant with its present value. Packed ones are.
    pub fn freeze(&mut self) {
        if let Storage::Dense(leaf) = self {
            leaf.freeze();
        }
    }

    /// Replaces the value, given in the checkpoint's layout, keeping whether and under which parameter id it trains. A
    /// packed matrix becomes a dense one.
    pub fn set(&mut self, value: Tensor<2>) {
        match self {
            Storage::Dense(leaf) => leaf.set(value),
            Storage::Packed(_) => *self = Storage::Dense(Leaf::Frozen(value)),
        }
    }

    fn unpack(&mut self) {
        if let Storage::Packed(packed) = self {
            *self = Storage::Dense(Leaf::Frozen(packed.value()));
        }
    }
}

/// A projection matrix as it is stored.
#[derive(Module, Debug)]
pub struct Weight {
    /// The matrix.
    pub value: Storage,
    /// The checkpoint's layout.
    #[module(skip)]
    pub layout: Layout,
}

impl Weight {
    /// A frozen matrix, given in `layout`.
    pub fn new(value: Tensor<2>, layout: Layout) -> Self {
        Self {
            value: Storage::Dense(Leaf::Frozen(value)),
            layout,
        }
    }

    /// A frozen matrix in codes.
    pub fn packed(packed: Packed, layout: Layout) -> Self {
        Self {
            value: Storage::Packed(packed),
            layout,
        }
    }

    /// The codes, where the matrix is stored in codes.
    pub fn as_packed(&self) -> Option<&Packed> {
        match &self.value {
            Storage::Packed(packed) => Some(packed),
            Storage::Dense(_) => None,
        }
    }

    /// `x · Wᵀ`, for x `[.., in]`. No dense copy of a frozen matrix is kept for the backward pass.
    pub fn project<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.project_for(x, Output::Read)
    }

    /// [`project`](Self::project), whose output may be unread.
    pub fn project_for<const D: usize>(&self, x: Tensor<D>, output: Output) -> Tensor<D> {
        match &self.value {
            Storage::Packed(packed) => packed.project(x, output),
            Storage::Dense(_) => ft_kernels::linear_for(x, self.dense(), output),
        }
    }

    /// `x · Wᵀ + scale · (dropout(x) · Aᵀ) · Bᵀ` as one operation, for a `[r, in]`, b `[out, r]`; `dropout` is a probability
    /// and a seed, the output may be unread. No dense copy of a packed matrix is kept for the backward pass.
    pub fn lora<const D: usize>(
        &self,
        x: Tensor<D>,
        a: Tensor<2>,
        b: Tensor<2>,
        scale: f64,
        dropout: Option<(f64, u64)>,
        output: Output,
    ) -> Tensor<D> {
        match &self.value {
            Storage::Packed(packed) => packed.lora(x, a, b, scale, dropout, output),
            Storage::Dense(_) => ft_kernels::lora_linear_for(x, self.dense(), a, b, scale, dropout, output),
        }
    }

    /// The matrix as `[out, in]`; a view of the stored tensor where the layout allows, unpacked exactly from codes.
    pub fn dense(&self) -> Tensor<2> {
        match &self.value {
            Storage::Dense(leaf) => self.layout.orient(leaf.val()),
            Storage::Packed(packed) => packed.dense(),
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match (&self.value, self.layout) {
            (Storage::Packed(packed), _) => packed.dims(),
            (Storage::Dense(leaf), Layout::OutIn) => leaf.dims(),
            (Storage::Dense(leaf), Layout::InOut) => {
                let [rows, cols] = leaf.dims();
                [cols, rows]
            }
        }
    }

    /// Type of the numbers, of codes once they are unpacked.
    pub fn dtype(&self) -> DType {
        match &self.value {
            Storage::Dense(leaf) => leaf.val().dtype(),
            Storage::Packed(packed) => packed.dtype().into(),
        }
    }

    /// Replaces the matrix by `dense`, given as `[out, in]`, in the stored layout and type. A packed matrix becomes a dense
    /// one.
    pub fn set_dense(&mut self, dense: Tensor<2>) {
        let dense = dense.cast(self.dtype());
        self.value.set(self.layout.orient(dense));
    }
}
