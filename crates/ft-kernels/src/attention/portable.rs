//! Compositions of Burn's operations in blocks of queries, right on every backend and type.
use super::{First, Scale, Span};
use crate::portable::{Val, wide};
#[cfg(feature = "gpu")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Scalar, TensorMetadata, get_device_settings};
use burn::tensor::{DType, FloatDType, IntDType, Shape, Slice};
use std::ops::Range;

/// Scores per block of queries: 128 MiB in f32.
const SCORES: usize = 1 << 25;
/// Queries per block where a window keeps keys near.
const BLOCK: usize = 128;
/// What hidden scores are lowered by: they vanish in the softmax of any row that sees something.
const HIDDEN: f64 = 1e30;

/// What fusion is told of a number of each query and head: q `[b, s, hq, d]`.
#[cfg(feature = "gpu")]
pub(super) fn per_head(q: &TensorSpec) -> TensorSpec {
    let [b, s, hq, _] = q.shape.dims();
    TensorSpec::new(Shape::new([b, s, hq]), wide(q.dtype))
}

/// The output and the logarithms `[b, s, hq]`.
pub(super) fn forward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    first: First<B>,
    span: Span,
    scale: Scale,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let shape = Shapes::new(&q, &k, span);
    let (q, k, v) = (Val::<B>(q), Val::<B>(k), Val::<B>(v));
    let (mut outs, mut lses) = (vec![], vec![]);
    for rows in shape.blocks() {
        let keys = shape.keys(&rows, &first);
        let scores = shape.scores(&q, &k, &rows, &keys, scale);
        let visible = shape.visible::<B>(&first, &rows, &keys, &scores);
        let scores = scores + visible.clone().shift(-1.0).scale(HIDDEN);
        let max = Val::<B>(B::float_max_dim(scores.0.clone(), 4));
        let e = (scores - max.clone()).exp() * visible;
        let sum = Val::<B>(B::float_clamp_min(e.clone().sum_last().0, Scalar::from(1e-30)));
        let out = shape.merge(e / sum.clone(), q.dtype()).matmul(shape.heads(&v, &keys));
        outs.push(shape.ungroup(out, rows.len()));
        let lse = max + Val(B::float_log(sum.0));
        lses.push(shape.ungroup(shape.merge(lse, wide(q.dtype())), rows.len()));
    }
    let lse = Val::cat(lses, 1).reshape(&[shape.b, shape.s, shape.hq()]);
    (Val::cat(outs, 1).0, lse.0)
}

/// Gradients to q, k and v; inputs q, k, v, out, lse, dout.
pub(super) fn backward<B: Backend>(
    [q, k, v, out, lse, dout]: [FloatTensor<B>; 6],
    first: First<B>,
    span: Span,
    scale: Scale,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let shape = Shapes::new(&q, &k, span);
    let (dtype, compute) = (q.dtype(), wide(q.dtype()));
    let [q, k, v, out, dout] = [q, k, v, out, dout].map(Val::<B>);
    let lse = Val::<B>(lse).reshape(&[shape.b, shape.s, shape.hq(), 1]);
    let along = (dout.clone().wide() * out.wide()).sum_last(); // rowsum(dO ∘ O) [b, s, hq, 1]
    let zeros = || {
        let shape = Shape::new([shape.b, shape.hkv, shape.t, shape.d]);
        Val::<B>(B::float_zeros(shape, &q.0.device(), FloatDType::from(compute)))
    };
    let (mut dqs, mut dk, mut dv) = (vec![], zeros(), zeros());
    for rows in shape.blocks() {
        let keys = shape.keys(&rows, &first);
        let scores = shape.scores(&q, &k, &rows, &keys, scale);
        let visible = shape.visible::<B>(&first, &rows, &keys, &scores);
        let shifted = scores.clone() + visible.clone().shift(-1.0).scale(HIDDEN);
        let p = (shifted - shape.split(shape.group(&lse, &rows))).exp() * visible;
        let d_rows = shape.group(&dout, &rows);
        let dp = shape.split(d_rows.clone().matmul(shape.heads(&v, &keys).t()).cast(compute));
        let ds = (p.clone() * (dp - shape.split(shape.group(&along, &rows)))).scale(scale.factor);
        let ds = ds.unbounded(&scores, scale.cap);
        let (p, ds) = (shape.merge(p, dtype), shape.merge(ds, dtype));
        dqs.push(shape.ungroup(ds.clone().matmul(shape.heads(&k, &keys)), rows.len()));
        dk = add_rows(dk, ds.t().matmul(shape.group(&q, &rows)).cast(compute), &keys);
        dv = add_rows(dv, p.t().matmul(d_rows).cast(compute), &keys);
    }
    let back = |x: Val<B>| x.permute(&[0, 2, 1, 3]).cast(dtype).0;
    (Val::cat(dqs, 1).0, back(dk), back(dv))
}

/// `sum[:, :, keys] += part`.
fn add_rows<B: Backend>(sum: Val<B>, part: Val<B>, keys: &Range<usize>) -> Val<B> {
    let dims = sum.dims();
    if keys.len() == dims[2] {
        return sum + part;
    }
    let range = |(i, &n): (usize, &usize)| if i == 2 { (keys.start, keys.end) } else { (0, n) };
    let slices: Vec<Slice> = dims
        .iter()
        .enumerate()
        .map(range)
        .map(|(a, b)| Slice::new(a as isize, Some(b as isize), 1))
        .collect();
    let old = sum.clone().narrow(2, keys.start, keys.len());
    Val(B::float_slice_assign(sum.0, &slices, (old + part).0))
}

/// The sizes of a call. Blocks of queries are `[b, hkv, groups · rows, ..]` for products and `[b, hkv, groups, rows, ..]`
/// for masks.
struct Shapes {
    b: usize,
    s: usize,
    t: usize,
    hkv: usize,
    groups: usize,
    d: usize,
    span: Span,
}

impl Shapes {
    fn new(q: &impl TensorMetadata, k: &impl TensorMetadata, span: Span) -> Self {
        let ([b, s, hq, d], [_, t, hkv, _]) = (q.shape().dims(), k.shape().dims());
        Self {
            b,
            s,
            t,
            hkv,
            groups: hq / hkv,
            d,
            span,
        }
    }

    fn hq(&self) -> usize {
        self.hkv * self.groups
    }

    fn blocks(&self) -> Vec<Range<usize>> {
        let rows = (SCORES / (self.b * self.hq() * self.t).max(1)).clamp(1, self.s.max(1));
        // Queries and keys of a block are then about as many.
        let rows = self.span.window.map_or(rows, |window| rows.min(window.max(BLOCK)));
        (0..self.s.max(1))
            .step_by(rows)
            .map(|i| i..(i + rows).min(self.s))
            .collect()
    }

    /// Keys that some query of the block may see.
    fn keys<B: Backend>(&self, rows: &Range<usize>, first: &First<B>) -> Range<usize> {
        if matches!(first, First::Between(_)) {
            return 0..self.t;
        }
        let Span { offset, window, prefix } = self.span;
        let start = match window {
            Some(window) if prefix == 0 => (rows.start + offset + 1).saturating_sub(window),
            _ => 0,
        };
        start..(prefix + offset + rows.end).min(self.t)
    }

    /// Scaled scores `[b, hkv, groups, rows, keys]`, bounded where they are.
    fn scores<B: Backend>(
        &self,
        q: &Val<B>,
        k: &Val<B>,
        rows: &Range<usize>,
        keys: &Range<usize>,
        scale: Scale,
    ) -> Val<B> {
        let scores = self.group(q, rows).matmul(self.heads(k, keys).t());
        self.split(scores.wide()).scale(scale.factor).bounded(scale.cap)
    }

    /// 1 where a key is seen, else 0: `[b or 1, 1, 1, rows, keys]`.
    fn visible<B: Backend>(&self, first: &First<B>, rows: &Range<usize>, keys: &Range<usize>, like: &Val<B>) -> Val<B> {
        let device = like.0.device();
        let bools = get_device_settings::<B>(&device).bool_dtype;
        let Span { offset, window, prefix } = self.span;
        let (n, m) = (rows.len(), keys.len());
        let range = |start: i64, len: usize, shape: [usize; 3]| {
            B::int_reshape(
                B::int_arange(start..start + len as i64, &device, IntDType::I32),
                Shape::new(shape),
            )
        };
        let columns = range(keys.start as i64 - prefix as i64, m, [1, 1, m]);
        let last = range((offset + rows.start) as i64, n, [1, n, 1]);
        let grow = |x: IntTensor<B>, b: usize| B::int_expand(x, Shape::new([b, n, m]));
        let hidden = |low: IntTensor<B>, b: usize| {
            let before = B::int_lower(grow(columns.clone(), b), grow(low, b), bools);
            let learned = B::int_lower_elem(grow(columns.clone(), b), Scalar::from(0), bools);
            B::bool_or(B::bool_not(before), learned)
        };
        let within = |high: IntTensor<B>, b: usize| {
            let beyond = B::int_greater(grow(columns.clone(), b), grow(high, b), bools);
            Val::<B>(B::bool_into_float(B::bool_not(beyond), like.dtype().into()))
        };
        // Those of the block's queries among `[b, s]`, or among `[2, b, s]`.
        let of_block = |all: &IntTensor<B>, part: Option<usize>| {
            let all = B::int_cast(all.clone(), IntDType::I32);
            let (whole, own) = (
                Slice::new(0, None, 1),
                Slice::new(rows.start as isize, Some(rows.end as isize), 1),
            );
            let cut = match part {
                None => B::int_slice(all, &[whole, own]),
                Some(part) => B::int_slice(
                    all,
                    &[Slice::new(part as isize, Some(part as isize + 1), 1), whole, own],
                ),
            };
            B::int_reshape(cut, Shape::new([self.b, n, 1]))
        };
        if let First::Between(columns) = first {
            let low = Val(B::bool_into_float(
                hidden(of_block(columns, Some(0)), self.b),
                like.dtype().into(),
            ));
            return (within(of_block(columns, Some(1)), self.b) * low).reshape(&[self.b, 1, 1, n, m]);
        }
        let mut visible = within(last.clone(), 1);
        if let Some(window) = window {
            let low = B::int_sub_scalar(last, Scalar::from(window as i64 - 1));
            visible = visible * Val(B::bool_into_float(hidden(low, 1), like.dtype().into()));
        }
        if let First::At(first) = first {
            let first = of_block(first, None);
            visible = visible * Val(B::bool_into_float(hidden(first, self.b), like.dtype().into()));
        }
        let b = visible.dims()[0];
        visible.reshape(&[b, 1, 1, n, m])
    }

    /// Rows of x `[b, s, hq, w]` as `[b, hkv, groups · rows, w]`.
    fn group<B: Backend>(&self, x: &Val<B>, rows: &Range<usize>) -> Val<B> {
        let (n, w) = (rows.len(), x.dims()[3]);
        let x = x
            .clone()
            .narrow(1, rows.start, n)
            .reshape(&[self.b, n, self.hkv, self.groups, w]);
        x.permute(&[0, 2, 3, 1, 4])
            .reshape(&[self.b, self.hkv, self.groups * n, w])
    }

    /// The inverse of [`Shapes::group`].
    fn ungroup<B: Backend>(&self, x: Val<B>, n: usize) -> Val<B> {
        let w = x.dims()[3];
        let x = x.reshape(&[self.b, self.hkv, self.groups, n, w]);
        x.permute(&[0, 3, 1, 2, 4]).reshape(&[self.b, n, self.hq(), w])
    }

    /// `[b, hkv, groups · rows, w]` -> `[b, hkv, groups, rows, w]`.
    fn split<B: Backend>(&self, x: Val<B>) -> Val<B> {
        let dims = x.dims();
        x.reshape(&[self.b, self.hkv, self.groups, dims[2] / self.groups, dims[3]])
    }

    /// The inverse of [`Shapes::split`], in another type.
    fn merge<B: Backend>(&self, x: Val<B>, dtype: DType) -> Val<B> {
        let dims = x.dims();
        x.reshape(&[self.b, self.hkv, self.groups * dims[3], dims[4]])
            .cast(dtype)
    }

    /// Keys or values as `[b, hkv, keys, d]`.
    fn heads<B: Backend>(&self, x: &Val<B>, keys: &Range<usize>) -> Val<B> {
        x.clone().narrow(1, keys.start, keys.len()).permute(&[0, 2, 1, 3])
    }
}
