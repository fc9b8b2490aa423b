//! Attention, causal or of whole texts, with grouped key and value heads, windows, packed samples and prefixes.
mod apart;
mod backward;
mod portable;
mod rotary;
#[cfg(all(test, feature = "flex"))]
mod tests;

#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "gpu")]
use crate::cube;
use crate::portable::as_type_of;
pub use apart::{Past, attention_apart};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::{Int, Tensor};
pub use rotary::rotary_attention;

/// Which keys a query sees. Query `i` of a call sits at key column `prefix + offset + i`.
///
/// It sees key `j` iff `j < prefix`, or
/// `prefix + max(first[b, i], i + offset + 1 - window) <= j <= prefix + offset + i`.
///
/// ```text
///  keys:   0 .. prefix | prefix .. prefix+offset | prefix+offset .. prefix+offset+s
///          learned       cached columns            columns of this call
/// ```
#[derive(Debug, Clone, Default)]
pub struct Mask {
    /// Key columns (after the prefix) that precede the first query: the length of the cache.
    pub offset: usize,
    /// Sliding window: a query sees at most this many columns, itself included.
    pub window: Option<usize>,
    /// `[b, s]`: first visible column of every query (left padding, packed samples); 0 by default.
    pub first: Option<Tensor<2, Int>>,
    /// `[b, s]`: last visible column of every query, where that is not its own: encoders see whole texts. Only with `first`, and without a
    /// cache, a window or a prefix.
    pub last: Option<Tensor<2, Int>>,
    /// Learned columns in front that every query sees.
    pub prefix: usize,
}

impl Mask {
    fn parts(&self) -> (First<Dispatch>, Span) {
        let first = match (self.first.clone(), self.last.clone()) {
            (None, _) => First::Start,
            (Some(first), None) => First::At(first.into_dispatch()),
            (Some(first), Some(last)) => First::Between(Tensor::stack::<3>(vec![first, last], 0).into_dispatch()),
        };
        (first, self.span())
    }

    fn span(&self) -> Span {
        Span {
            offset: self.offset,
            window: self.window,
            prefix: self.prefix,
        }
    }
}

/// The numbers of a [`Mask`].
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub(crate) offset: usize,
    pub(crate) window: Option<usize>,
    pub(crate) prefix: usize,
}

/// The first visible columns of a [`Mask`], and the last ones.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "gpu"))]
pub enum First<B: Backend> {
    /// Every query may see column 0.
    Start,
    /// `[b, s]`.
    At(IntTensor<B>),
    /// `[2, b, s]`: the first and the last visible column.
    Between(IntTensor<B>),
}

/// `softmax(scale · q·kᵀ + mask) · v`: q `[b, s, hq, d]`, k and v `[b, t, hkv, d]` -> `[b, s, hq, d]`.
///
/// Query head `h` reads key head `h / (hq / hkv)`; keys and values are never repeated in memory. A query that sees
/// nothing gives zeros. Keys and values are computed with in the type of `q`. Keys beyond the last query's column are not seen. Kept for backward: q, k, v, the output and one
/// logarithm per row and head; probabilities are computed again (FlashAttention, <https://arxiv.org/abs/2205.14135>).
///
/// # Panics
/// If the shapes do not fit each other or there are fewer keys than the mask's columns.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Mask, scale: f64) -> Tensor<4> {
    check(q.dims(), &k, &v, mask);
    let (k, v) = (as_type_of(&q, k), as_type_of(&q, v));
    let (first, span) = mask.parts();
    let [q, k, v] = [q.into_dispatch(), k.into_dispatch(), v.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as AttentionOps>::attend(q, k, v, first, span, scale))
}

fn check([b, s, hq, d]: [usize; 4], k: &Tensor<4>, v: &Tensor<4>, mask: &Mask) {
    let [kb, t, hkv, kd] = k.dims();
    let first = mask.first.as_ref().map(Tensor::dims);
    assert!(
        b == kb && d == kd && k.dims() == v.dims() && hkv > 0 && hq % hkv == 0 && first.is_none_or(|f| f == [b, s]),
        "attention: q {:?} [b, s, hq, d], k {:?} and v {:?} [b, t, hkv, d], first {first:?} [b, s]",
        [b, s, hq, d],
        k.dims(),
        v.dims()
    );
    let whole = mask.first.is_some() && mask.offset + mask.prefix == 0 && mask.window.is_none();
    assert!(
        mask.last.is_none() || whole,
        "attention: {mask:?}: last columns go with first ones alone"
    );
    assert!(
        t >= mask.prefix + mask.offset + s,
        "attention: {t} keys for {mask:?} and {s} queries"
    );
}

/// The backend operations of [`attention`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait AttentionOps: Backend {
    /// The output `[b, s, hq, d]`.
    #[fusion(default)]
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] first: First<Self>,
        span: Span,
        scale: f64,
    ) -> FloatTensor<Self> {
        Self::attend_with_lse(q, k, v, first, span, scale).0
    }

    /// The output and, per row and head `[b, s, hq]`, the logarithm of the sum of exponentials.
    #[fusion(meta = |q, _k, _v, _first, _span, _scale| (q.clone(), portable::per_head(q)))]
    fn attend_with_lse(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] first: First<Self>,
        span: Span,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::forward::<Self>(q, k, v, first, span, scale)
    }

    /// Gradients to q, k and v from that of the output.
    #[fusion(meta = |q, k, v, _out, _lse, _dout, _first, _span, _scale| (q.clone(), k.clone(), v.clone()))]
    #[allow(clippy::too_many_arguments)]
    fn attend_gradients(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        #[extension_type] first: First<Self>,
        span: Span,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::backward::<Self>([q, k, v, out, lse, dout], first, span, scale)
    }
}

#[cfg(feature = "gpu")]
impl AttentionOps for burn_cubecl::CubeBackend {
    fn attend_with_lse(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match cube::Attention::of(&q, &k, [&v]) {
            Some(kernels) => kernels.forward(q, k, v, first, span, scale),
            None => portable::forward::<Self>(q, k, v, first, span, scale),
        }
    }

    fn attend_gradients(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = [q, k, v, out, lse, dout];
        let [q, k, v, out, lse, dout] = inputs.each_ref();
        match cube::Attention::of(q, k, [v, out, lse, dout]) {
            Some(kernels) => kernels.backward(inputs, first, span, scale),
            None => portable::backward::<Self>(inputs, first, span, scale),
        }
    }
}

#[cfg(feature = "flex")]
impl AttentionOps for burn::backend::Flex {
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: f64,
    ) -> FloatTensor<Self> {
        match cpu::flex::all_f32([&q, &k, &v]) {
            true => cpu::attention::output(q, k, v, first, span, scale as f32),
            false => portable::forward::<Self>(q, k, v, first, span, scale).0,
        }
    }

    fn attend_with_lse(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match cpu::flex::all_f32([&q, &k, &v]) {
            true => cpu::attention::forward(q, k, v, first, span, scale as f32),
            false => portable::forward::<Self>(q, k, v, first, span, scale),
        }
    }

    fn attend_gradients(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        first: First<Self>,
        span: Span,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        match cpu::flex::all_f32([&q, &k, &v, &out, &lse, &dout]) {
            true => cpu::attention::backward([q, k, v, out, lse, dout], first, span, scale as f32),
            false => portable::backward::<Self>([q, k, v, out, lse, dout], first, span, scale),
        }
    }
}
