//! Between the CPU backend's tensors and slices of f32.
use super::gemm::Mat;
use super::par::Shared;
use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape, bf16, f16};

/// Whether every tensor is f32: the fused code has no other element type.
pub(crate) fn all_f32<const N: usize>(tensors: [&FlexTensor; N]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32)
}

/// The values of a contiguous f32 tensor.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    let (start, end) = tensor.layout().contiguous_offsets().expect("a contiguous tensor");
    &tensor.storage::<f32>()[start..end]
}

/// A copy if the tensor is not contiguous.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// Memory for `n` values that the caller writes in full before it reads any.
pub(crate) fn fresh(n: usize) -> Vec<f32> {
    let memory = Box::<[f32]>::new_uninit_slice(n);
    // SAFETY: any bit pattern is an f32, and no caller reads a value before writing it. Zeroing would touch every page
    // once more than needed.
    unsafe { memory.assume_init() }.into_vec()
}

/// A tensor from its values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    let shape = shape.into();
    assert_eq!(values.len(), shape.num_elements());
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// A 2-dimensional tensor of f32, bf16 or f16 as a matrix, transposed or not; `None` for other types and layouts.
pub(crate) fn matrix(tensor: &FlexTensor) -> Option<Mat<'_>> {
    let layout = tensor.layout();
    let [rows, cols] = layout.shape().dims();
    let stride = |d: usize| usize::try_from(layout.strides()[d]).ok();
    let (row, col, start) = (stride(0)?, stride(1)?, layout.start_offset());
    Some(match tensor.dtype() {
        DType::F32 => Mat::strided(&tensor.storage::<f32>()[start..], rows, cols, row, col),
        DType::BF16 => Mat::strided(&tensor.storage::<bf16>()[start..], rows, cols, row, col),
        DType::F16 => Mat::strided(&tensor.storage::<f16>()[start..], rows, cols, row, col),
        _ => return None,
    })
}

/// A contiguous f32 tensor `[.., width]` as a matrix `[rows, width]`.
pub(crate) fn rows(tensor: &FlexTensor) -> Mat<'_> {
    let width = last(tensor);
    Mat::new(values(tensor), values(tensor).len() / width.max(1), width)
}

/// Size of the last dimension.
pub(crate) fn last(tensor: &FlexTensor) -> usize {
    let shape = tensor.shape();
    shape[shape.num_dims() - 1]
}

/// A tensor that tasks overwrite block by block: the input's own memory if no one else holds it.
pub(crate) struct Rewrite {
    source: FlexTensor,
    target: Option<Vec<f32>>,
}

impl Rewrite {
    pub(crate) fn new(source: FlexTensor) -> Self {
        let mut source = contiguous(source);
        let whole = source.layout().start_offset() == 0 && source.bytes().len() == 4 * source.layout().num_elements();
        let own = whole && source.try_storage_mut::<f32>().is_some();
        let target = (!own).then(|| fresh(source.layout().num_elements()));
        Self { source, target }
    }

    /// Runs `task` with the blocks, which start out with the input's values.
    pub(crate) fn run(mut self, task: impl FnOnce(&Blocks<'_>)) -> FlexTensor {
        match self.target {
            None => {
                let values = self.source.try_storage_mut::<f32>().expect("sole owner");
                task(&Blocks {
                    target: Shared::new(values),
                    source: None,
                });
                self.source
            }
            Some(mut target) => {
                task(&Blocks {
                    target: Shared::new(&mut target),
                    source: Some(values(&self.source)),
                });
                tensor(target, self.source.shape())
            }
        }
    }
}

/// Disjoint parts of a [`Rewrite`].
pub(crate) struct Blocks<'a> {
    target: Shared<f32>,
    source: Option<&'a [f32]>,
}

impl Blocks<'_> {
    /// Values `start..start + len`, holding the input.
    ///
    /// # Safety
    /// Inside the tensor, and no other task touches any of them.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn take(&self, start: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        let block = unsafe { self.target.slice(start, len) };
        if let Some(source) = self.source {
            block.copy_from_slice(&source[start..start + len]);
        }
        block
    }
}

/// The values of an integer tensor of any width.
pub(crate) fn integers(tensor: FlexTensor) -> Vec<i64> {
    tensor
        .into_data()
        .convert::<i64>()
        .try_to_vec()
        .expect("converted to i64")
}

/// A small tensor (the weight of a norm) as contiguous f32.
pub(crate) fn vector(tensor: FlexTensor) -> FlexTensor {
    contiguous(crate::portable::Val::<burn::backend::Flex>(tensor).cast(DType::F32).0)
}
