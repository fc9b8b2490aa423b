//! `x · Wᵀ` where W is a constant stored in 4-bit or 8-bit codes.
mod portable;
#[cfg(all(test, feature = "flex"))]
pub(crate) mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use crate::linear::LinearOps;
use crate::output::Output;
use crate::packed::{Form, Packed, ScaleCodes};
use crate::portable::Val;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

/// `x · Wᵀ`: x `[.., in]`, w `[out, in]` -> `[.., out]` in the type of `x`.
///
/// Kept for backward: the packed buffers and nothing else. On the CPU the matrix is decoded a tile at a time while the product
/// is packed, and for few rows of `x` (decoding) in registers. On graphics cards one kernel unpacks it into a temporary of the
/// type of `x`, and another multiplies up to 8 rows of `x` (in f32, f16 or bf16) without one. There, scales that are codes may
/// differ from the CPU's in the last bit.
///
/// # Panics
/// If shapes do not fit.
pub fn frozen_matmul<const D: usize>(x: Tensor<D>, w: &Packed) -> Tensor<D> {
    frozen_matmul_for(x, w, Output::Read)
}

/// [`frozen_matmul`], whose output may be [unread](Output::Unread).
///
/// # Panics
/// If shapes do not fit.
pub fn frozen_matmul_for<const D: usize>(x: Tensor<D>, w: &Packed, output: Output) -> Tensor<D> {
    assert_eq!(
        x.dims()[D - 1],
        w.form.cols,
        "frozen_matmul: x {:?} and weight [{}, {}] [out, in]",
        x.dims(),
        w.form.rows,
        w.form.cols
    );
    let (words, scales, codes) = buffers(w);
    let y = <Dispatch as FrozenOps>::frozen_project_for(x.into_dispatch(), words, scales, codes, w.form, output);
    Tensor::from_dispatch(y)
}

/// The values of a packed matrix `[rows, cols]`, in f32.
pub fn unpack(w: &Packed) -> Tensor<2> {
    let (words, scales, codes) = buffers(w);
    Tensor::from_dispatch(<Dispatch as FrozenOps>::frozen_unpack(
        words,
        scales,
        codes,
        w.form,
        DType::F32,
    ))
}

pub(crate) fn buffers(w: &Packed) -> (IntTensor<Dispatch>, FloatTensor<Dispatch>, ScaleCodes<Dispatch>) {
    w.check();
    let codes = w.scale_codes.clone();
    let codes = codes.map_or(ScaleCodes::Absent, |codes| ScaleCodes::Words(codes.into_dispatch()));
    (w.words.clone().into_dispatch(), w.scales.clone().into_dispatch(), codes)
}

/// The backend operations of [`frozen_matmul`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait FrozenOps: LinearOps {
    /// The values `[rows, cols]` in a float type.
    #[fusion(dtype = *dtype, shape = burn::tensor::Shape::new([form.rows, form.cols]))]
    fn frozen_unpack(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] codes: ScaleCodes<Self>,
        form: Form,
        dtype: DType,
    ) -> FloatTensor<Self> {
        Val::<Self>(portable::unpack::<Self>(words, scales, codes, form))
            .cast(dtype)
            .0
    }

    /// x `[.., in]` -> `[.., out]`.
    #[fusion(default)]
    fn frozen_project(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] codes: ScaleCodes<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        if x.shape().num_elements() <= FEW * form.cols {
            return Self::frozen_project_few(x, words, scales, codes, form);
        }
        let w = Self::frozen_unpack(words, scales, codes, form, x.dtype());
        Self::project(x, w)
    }

    /// `frozen_project` for at most [`FEW`] rows of x.
    #[fusion(dtype = x, shape = crate::portable::with_last(x, form.rows))]
    fn frozen_project_few(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] codes: ScaleCodes<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        let w = Self::frozen_unpack(words, scales, codes, form, x.dtype());
        Self::project(x, w)
    }

    /// [`frozen_project`](Self::frozen_project), or zeros.
    #[fusion(default)]
    fn frozen_project_for(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] codes: ScaleCodes<Self>,
        form: Form,
        output: Output,
    ) -> FloatTensor<Self> {
        output.of::<Self>(x, form.rows, |x| Self::frozen_project(x, words, scales, codes, form))
    }

    /// Gradient to x: dy `[.., out]` -> `[.., in]`.
    #[fusion(default)]
    fn frozen_input_gradient(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] codes: ScaleCodes<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        let w = Self::frozen_unpack(words, scales, codes, form, dy.dtype());
        Self::project_input_gradient(dy, w)
    }
}

/// Rows of x up to which a product on a graphics card reads the codes instead of an unpacked copy.
pub(crate) const FEW: usize = 8;

#[cfg(feature = "gpu")]
impl FrozenOps for burn_cubecl::CubeBackend {
    fn frozen_unpack(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
        dtype: DType,
    ) -> FloatTensor<Self> {
        cube::unpack(words, scales, codes, form, dtype)
    }

    fn frozen_project_few(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        if !cube::fits(&x) {
            let w = Self::frozen_unpack(words, scales, codes, form, x.dtype());
            return Self::project(x, w);
        }
        cube::few(x, words, scales, codes, form)
    }
}

#[cfg(feature = "flex")]
impl FrozenOps for burn::backend::Flex {
    fn frozen_unpack(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
        dtype: DType,
    ) -> FloatTensor<Self> {
        let w = cpu::codes::with_view(words, scales, codes, form, cpu::frozen::unpack);
        Val::<Self>(w).cast(dtype).0
    }

    fn frozen_project(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        if !cpu::flex::all_f32([&x]) {
            let w = Self::frozen_unpack(words, scales, codes, form, x.dtype());
            return Self::project(x, w);
        }
        cpu::codes::with_view(words, scales, codes, form, |w| cpu::frozen::forward(w, x, None))
    }

    fn frozen_input_gradient(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        if !cpu::flex::all_f32([&dy]) {
            let w = Self::frozen_unpack(words, scales, codes, form, dy.dtype());
            return Self::project_input_gradient(dy, w);
        }
        cpu::codes::with_view(words, scales, codes, form, |w| cpu::frozen::input_gradient(w, dy, None))
    }
}

impl<B: FrozenOps, C: CheckpointStrategy> FrozenOps for Autodiff<B, C> {
    fn frozen_unpack(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
        dtype: DType,
    ) -> FloatTensor<Self> {
        let w = B::frozen_unpack(words, scales.into_primitive(), codes.inner(), form, dtype);
        <Self as AutodiffBackend>::from_inner(w)
    }

    fn frozen_project(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        Self::frozen_project_for(x, words, scales, codes, form, Output::Read)
    }

    fn frozen_project_for(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        codes: ScaleCodes<Self>,
        form: Form,
        output: Output,
    ) -> FloatTensor<Self> {
        let (scales, codes) = (scales.into_primitive(), codes.inner());
        let (x, node) = x.into_parts();
        match FrozenMatmul.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let kept = Kept {
                    words: words.clone(),
                    scales: scales.clone(),
                    codes: codes.clone(),
                    form,
                };
                prep.finish(kept, B::frozen_project_for(x, words, scales, codes, form, output))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::frozen_project_for(x, words, scales, codes, form, output)),
        }
    }

    fn frozen_project_few(
        _x: FloatTensor<Self>,
        _words: IntTensor<Self>,
        _scales: FloatTensor<Self>,
        _codes: ScaleCodes<Self>,
        _form: Form,
    ) -> FloatTensor<Self> {
        crate::portable::once("frozen_matmul")
    }

    fn frozen_input_gradient(
        _dy: FloatTensor<Self>,
        _words: IntTensor<Self>,
        _scales: FloatTensor<Self>,
        _codes: ScaleCodes<Self>,
        _form: Form,
    ) -> FloatTensor<Self> {
        crate::portable::once("frozen_matmul")
    }
}

#[derive(Debug)]
struct FrozenMatmul;

/// The packed buffers: no dense copy of the matrix outlives a product.
#[derive(Debug, Clone)]
struct Kept<B: Backend> {
    words: IntTensor<B>,
    scales: FloatTensor<B>,
    codes: ScaleCodes<B>,
    form: Form,
}

impl<B: FrozenOps> Backward<B, 1> for FrozenMatmul {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let Kept {
            words,
            scales,
            codes,
            form,
        } = ops.state;
        if let Some(node) = node {
            grads.register::<B>(node.id, B::frozen_input_gradient(dy, words, scales, codes, form));
        }
    }
}
