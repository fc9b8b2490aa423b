//! Products on machines without AVX2: the `gemm` crate (NEON, SSE).
use super::{Dest, Elem, Mat, Par, Term};
use crate::cpu::scratch;

/// `c (+)= Σ terms`. All dimensions are positive; shapes were checked by the caller.
pub(super) fn run(terms: &[Term], c: &Dest, add: bool, par: Par) {
    for (i, term) in terms.iter().enumerate() {
        if term.a.cols() == 0 {
            continue;
        }
        match term.b.elem() {
            Elem::F32 => one(term, c, add || i > 0, par),
            Elem::Bf16 | Elem::F16 => {
                let (k, n) = (term.b.rows(), term.b.cols());
                let mut wide = scratch::take(k * n);
                term.b.widen(&mut wide);
                one(
                    &Term {
                        b: Mat::new(&wide, k, n),
                        ..*term
                    },
                    c,
                    add || i > 0,
                    par,
                );
            }
        }
    }
}

fn one(term: &Term, c: &Dest, add: bool, par: Par) {
    let (a, b) = (term.a, term.b);
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
            term.scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
