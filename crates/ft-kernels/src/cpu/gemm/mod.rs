//! Single-precision matrix products for the shapes of language models, on all cores.
//!
//! ```text
//!  C[m, n] (+)= Σ_t scale_t · A_t[m, k_t] · B_t[k_t, n]
//!
//!  pack A (all threads) -> for each 32-column panel of C (one thread): pack its B panel, sweep the tiles of A
//! ```
//! Several terms share one pass over C, so a low-rank update costs no extra pass. B may be stored in 16 bits or in codes:
//! packing widens or decodes it. Every element of C is summed in an order that depends on the shapes alone, never on the thread count.
mod dot;
mod factor;
mod fallback;
#[cfg(target_arch = "x86_64")]
mod kernel;
mod matrix;
mod pack;
#[cfg(target_arch = "x86_64")]
mod packed;
mod rhs;
#[cfg(test)]
mod tests;
mod transpose;

pub(crate) use dot::{dot_products, eight, eight_whole};
pub(crate) use factor::Factor;
pub(crate) use matrix::{Elem, Mat};
pub(crate) use rhs::Rhs;

use crate::cpu::par::Shared;

/// One product of a sum: `scale · a · b`, `a` stored in f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) a: Mat<'a>,
    pub(crate) b: Factor<'a>,
    pub(crate) scale: f32,
}

impl<'a> Term<'a> {
    pub(crate) fn new(a: Mat<'a>, b: impl Into<Factor<'a>>) -> Self {
        Self::scaled(a, b, 1.0)
    }

    pub(crate) fn scaled(a: Mat<'a>, b: impl Into<Factor<'a>>, scale: f32) -> Self {
        let b = b.into();
        assert_eq!(a.cols(), b.rows(), "inner dimensions of a product");
        assert_eq!(a.elem(), Elem::F32, "the left factor is f32");
        Self { a, b, scale }
    }
}

/// Which threads a product may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Par {
    /// The calling thread: inside a task that is itself one of many.
    One,
    /// The whole pool.
    All,
}

/// Products below this many multiply-adds stay on the calling thread: waking another costs more.
const PARALLEL_FROM: usize = 1 << 20;
/// The same for dot products, whose helpers are awake.
const DOTS_PARALLEL_FROM: usize = 1 << 16;

/// `c (+)= Σ terms`: c `[m, n]` with rows `stride` apart; added to what is there if `add`.
///
/// # Panics
/// If the terms differ in shape or `c` is too small.
pub(crate) fn gemm(terms: &[Term], c: &mut [f32], stride: usize, add: bool, par: Par) {
    let (m, n) = (terms[0].a.rows(), terms[0].b.cols());
    assert!(
        terms.iter().all(|t| t.a.rows() == m && t.b.cols() == n),
        "terms of one product differ in shape"
    );
    assert!(
        m == 0 || n == 0 || (stride >= n && c.len() >= (m - 1) * stride + n),
        "product outside its destination"
    );
    if m == 0 || n == 0 {
        return;
    }
    let work: usize = terms.iter().map(|t| m * n * t.a.cols()).sum();
    if work == 0 {
        if !add {
            c.chunks_mut(stride).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    let c = Dest {
        ptr: Shared::new(c),
        stride,
    };
    if dot::suits(terms, m, n) {
        let par = if work < DOTS_PARALLEL_FROM { Par::One } else { par };
        for (i, term) in terms.iter().enumerate() {
            dot::run(term, &c, add || i > 0, par);
        }
        return;
    }
    let par = if work < PARALLEL_FROM { Par::One } else { par };
    #[cfg(target_arch = "x86_64")]
    if let Some(tile) = kernel::Tile::detect() {
        return packed::run(tile, terms, &c, add, par);
    }
    fallback::run(terms, &c, add, par);
}

/// The destination as the tasks of a product share it.
pub(super) struct Dest {
    ptr: Shared<f32>,
    stride: usize,
}
