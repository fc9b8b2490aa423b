//! Products on machines without AVX2: the `gemm` crate (NEON, SSE).
use super::{Dest, Mat, Par, Term};
use crate::cpu::scratch;

/// `c (+)= Σ terms`. All dimensions are positive; shapes were checked by the caller.
pub(super) fn run(terms: &[Term], c: &Dest, add: bool, par: Par) {
    for (i, term) in terms.iter().enumerate() {
        if term.a.cols() == 0 {
            continue;
        }
        let add = add || i > 0;
        match term.b.plain() {
            Some(b) => one(term.a, b, term.scale, c, add, par),
            None => widened(term, c, add, par),
        }
    }
}

/// Values of B that are widened or decoded at a time: 8 MiB.
const SLAB: usize = 2 << 20;

/// A product with a B that is not f32, some columns at a time.
fn widened(term: &Term, c: &Dest, add: bool, par: Par) {
    let (k, n) = (term.b.rows(), term.b.cols());
    let width = (SLAB / k).clamp(1, n);
    let mut slab = scratch::take(k * width);
    for first in (0..n).step_by(width) {
        let columns = first..(first + width).min(n);
        term.b.pack(0..k, columns.clone(), width, &mut slab);
        let b = Mat::strided(&slab, k, columns.len(), width, 1);
        let part = Dest {
            ptr: c.ptr.at(first),
            stride: c.stride,
        };
        one(term.a, b, term.scale, &part, add, par);
    }
}

fn one(a: Mat, b: Mat, scale: f32, c: &Dest, add: bool, par: Par) {
    let parallelism = match par {
        Par::One => gemm::Parallelism::None,
        Par::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: the views and the destination were checked when they were made.
    unsafe {
        gemm::gemm(
            a.rows(),
            b.cols(),
            a.cols(),
            c.ptr.ptr(),
            1,
            c.stride as isize,
            add,
            a.at::<f32>(0, 0),
            a.col_stride() as isize,
            a.row_stride() as isize,
            b.at::<f32>(0, 0),
            b.col_stride() as isize,
            b.row_stride() as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
