//! Products with a matrix in codes, which are decoded a tile at a time while the products are packed: no dense copy exists.
use super::codes::{Coded, Interleaved, View, dots};
use super::flex::{contiguous, fresh, matrix, rows, tensor};
use super::gemm::{Factor, Mat, Par, Term, gemm};
use super::par;
use crate::portable::with_last;
use crate::row_invariant;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// Up to this many rows of x, the products are dot products straight from the codes.
const FEW: usize = 8;
/// Values per task.
const TASK: usize = 32 << 10;
/// Values below which a matrix-vector product stays on the calling thread: waking another costs more.
const PARALLEL_FROM: usize = 1 << 19;

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
    let one_by_one = a.rows() <= FEW || row_invariant::on();
    if !one_by_one || !few_at_once(w, a, &mut out) {
        w.whole(|w| product(a, Factor::codes(w).t(), low, &mut out));
    } else if let Some(low) = low {
        gemm(&[low], &mut out, n, true, Par::All);
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

/// A product by dot products, as many rows at once as they take; false where the shape does not suit them.
fn few_at_once(w: &View, x: Mat, out: &mut [f32]) -> bool {
    let n = w.dims()[0];
    (0..x.rows()).step_by(FEW).all(|row| {
        let rows = FEW.min(x.rows() - row);
        few(w, x.narrow_rows(row, rows), &mut out[row * n..][..rows * n])
    })
}

/// A product with few rows, by dot products; false where the shape does not suit them.
fn few(w: &View, x: Mat, out: &mut [f32]) -> bool {
    let ([n, k], m) = (w.dims(), x.rows());
    let Some(x) = w.rows(0..0, |w| Interleaved::new(x, &w)) else {
        return false;
    };
    let height = if m * n * k < PARALLEL_FROM {
        n.max(1)
    } else {
        (TASK / k.max(1)).max(1)
    };
    let shared = par::Shared::new(out);
    par::run(n.div_ceil(height), |task| {
        let rows = task * height..((task + 1) * height).min(n);
        w.rows(rows.clone(), |w: Coded| {
            dots(&x, &w, rows, &mut |vector, row, sum| {
                // SAFETY: these columns of the result belong to this task alone.
                unsafe { shared.slice(vector * n + row, 1)[0] = sum }
            });
        });
    });
    true
}
