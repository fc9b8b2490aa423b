//! Products with a matrix in codes, which are decoded a tile at a time while the products are packed: no dense copy exists.
use super::codes::{Coded, Interleaved, View, dots};
use super::flex::{contiguous, fresh, matrix, rows, tensor, values};
use super::gemm::{Factor, Mat, Par, Term, eight, eight_whole, gemm};
use super::{par, scratch, team};
use crate::portable::with_last;
use crate::row_invariant;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use std::ops::Range;

/// Up to this many rows of x, the products are dot products straight from the codes.
const FEW: usize = 8;
/// Values per task.
const TASK: usize = 32 << 10;
/// Multiply-adds below which a product by dot products stays on the calling thread.
const PARALLEL_FROM: usize = 1 << 16;

/// A low-rank term `scale · left · right`.
pub(crate) type Low<'a> = (&'a FlexTensor, &'a FlexTensor, f32);

/// All values.
pub(crate) fn unpack(w: &View) -> FlexTensor {
    let [n, k] = w.dims();
    let mut out = fresh(n * k);
    let height = (TASK / k.max(1)).max(1);
    let shared = par::Shared::new(&mut out);
    w.whole(|w| {
        par::run(n.div_ceil(height), |task| {
            let rows = task * height..((task + 1) * height).min(n);
            // SAFETY: every task has its own rows.
            let out = unsafe { shared.slice(rows.start * k, rows.len() * k) };
            w.rectangle(rows, 0..k, k.max(1), out);
        });
    });
    tensor(out, [n, k])
}

/// `x [.., in] · Wᵀ + scale · t [.., r] · Bᵀ`, B `[out, r]`.
pub(crate) fn forward(w: &View, x: FlexTensor, low: Option<Low>) -> FlexTensor {
    let ([n, _], x) = (w.dims(), contiguous(x));
    let shape = with_last(&x.shape(), n);
    let a = rows(&x);
    let mut out = fresh(a.rows() * n);
    let low = low.map(|(t, b, scale)| Term::scaled(rows(t), dense(b).t(), scale));
    if a.rows() <= FEW || row_invariant::on() {
        by_dots(w, &x, &mut out);
        if let Some(low) = low {
            gemm(&[low], &mut out, n, true, Par::All);
        }
    } else {
        w.whole(|w| product(a, Factor::codes(w).t(), low, &mut out));
    }
    tensor(out, shape)
}

/// Gradient to x: `dy [.., out] · W + scale · u [.., r] · A`, A `[r, in]`.
pub(crate) fn input_gradient(w: &View, dy: FlexTensor, low: Option<Low>) -> FlexTensor {
    let ([_, k], dy) = (w.dims(), contiguous(dy));
    let shape = with_last(&dy.shape(), k);
    let d = rows(&dy);
    let mut out = fresh(d.rows() * k);
    let low = low.map(|(u, a, scale)| Term::scaled(rows(u), dense(a), scale));
    w.whole(|w| product(d, Factor::codes(w), low, &mut out));
    tensor(out, shape)
}

fn dense(t: &FlexTensor) -> Mat<'_> {
    matrix(t).expect("a factor of f32, bf16 or f16")
}

fn product<'a>(a: Mat<'a>, w: Factor<'a>, low: Option<Term<'a>>, out: &mut [f32]) {
    let terms: Vec<Term> = std::iter::once(Term::new(a, w)).chain(low).collect();
    gemm(&terms, out, w.cols(), false, Par::All);
}

/// `x · Wᵀ` by dot products, straight from the codes where there is code for their shape. Every row is summed in the same order,
/// however many there are.
fn by_dots(w: &View, x: &FlexTensor, out: &mut [f32]) {
    let ([n, k], a) = (w.dims(), rows(x));
    let few = a.rows() * n * k < PARALLEL_FROM;
    let par = if few { Par::One } else { Par::All };
    if let Some((codes, scales)) = w.eight() {
        // Training computes in f32 whatever its rows; decoding need not.
        return match row_invariant::on() {
            true => eight_whole(values(x), codes, scales, out, par),
            false => eight(values(x), codes, scales, out, par),
        };
    }
    let x = w.rows(0..0, |w| Interleaved::new(a, &w));
    let height = if few { n.max(1) } else { (TASK / k.max(1)).max(1) };
    let shared = par::Shared::new(out);
    team::run(n.div_ceil(height), |task| {
        let rows = task * height..((task + 1) * height).min(n);
        let put = |vector: usize, row: usize, sum: f32| {
            // SAFETY: these columns of the result belong to this task alone.
            unsafe { shared.slice(vector * n + row, 1)[0] = sum }
        };
        w.rows(rows.clone(), |w| match &x {
            Some(x) => dots(x, &w, rows, &mut { put }),
            None => decoded(a, &w, rows, put),
        });
    });
}

/// The same by values that are decoded first.
fn decoded(x: Mat, w: &Coded, rows: Range<usize>, put: impl Fn(usize, usize, f32)) {
    let (k, count) = (w.width(), rows.len());
    let (mut dense, mut out) = (scratch::take(count * k), scratch::take(x.rows() * count));
    w.rectangle(rows.clone(), 0..k, k.max(1), &mut dense);
    let term = Term::new(x, Mat::new(&dense, count, k).t());
    gemm(&[term], &mut out, count.max(1), false, Par::One);
    for (vector, sums) in out.chunks_exact(count.max(1)).enumerate() {
        rows.clone().zip(sums).for_each(|(row, sum)| put(vector, row, *sum));
    }
}
