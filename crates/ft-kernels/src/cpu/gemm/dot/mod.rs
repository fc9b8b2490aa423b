//! Products with few rows or few columns, both factors contiguous along k: blocks of dot products, nothing is packed.
//!
//! Decoding (one row of x against all of W) and the narrow side of a low-rank update have this form. W is read in the type in which
//! it is stored and widened in registers, so that one row of x costs one pass over the bytes of W. For many rows of x, a few rows of W
//! are widened beforehand, which changes no bit.
mod stored;
mod tile;
mod whole;

use super::{Dest, Elem, Mat, Par, Term};
use crate::cpu::isa::Isa;
use crate::cpu::{par, scratch, team};
use crate::packed::INVERSE_127;
use crate::row_invariant;
use half::{bf16, f16};
use std::ops::Range;
use stored::Stored;
use tile::{HIGH, WIDE, tile};
pub(crate) use whole::eight_whole;

/// At most this many rows (or columns).
const NARROW: usize = 16;
/// Row-invariant products of this depth and more are dot products however many rows they have; flatter ones never are.
const DEEP: usize = 32;
/// Rows of x up to which a product takes the time of reading W.
const FEW: usize = 8;
/// Bytes of W in a task of such a product: some microseconds.
const TASK: usize = 32 << 10;
/// Rows of the longer factor in a task of others.
const ROWS: usize = 64;
/// Bytes of x that are gone through for a few rows of W, widened once: they stay in the second-level cache.
const NEAR: usize = 96 << 10;

/// Whether all terms have the form `x · Wᵀ` with contiguous rows and one side is narrow.
pub(super) fn suits(terms: &[Term], m: usize, n: usize) -> bool {
    let along_k = |t: &Term| t.a.col_stride() == 1 && t.b.dense().is_some_and(|b| b.row_stride() == 1);
    let few = match row_invariant::on() {
        // Without register tiles there is nothing else whose order is known.
        true => Isa::detect() == Isa::Base || terms.iter().all(|t| t.a.cols() >= DEEP),
        false => m <= FEW,
    };
    let narrow = few || (n <= NARROW && terms.iter().all(|t| t.b.plain().is_some()));
    narrow && terms.iter().all(along_k)
}

/// `c (+)= scale · a · b`.
pub(super) fn run(term: &Term, c: &Dest, add: bool, par: Par) {
    let w = term.b.dense().expect("what suits is dense").t(); // [n, k]
    let x = Rows::new(term.a.at(0, 0), term.a.row_stride(), term.a.rows());
    let sizes = (w.row_stride(), w.rows());
    let write = Write {
        c,
        add,
        scale: Scale::Of(term.scale),
    };
    let k = term.a.cols();
    match w.elem() {
        Elem::F32 => blocks::<f32>(x, Rows::new(w.at(0, 0), sizes.0, sizes.1), k, &write, par),
        Elem::Bf16 => blocks::<bf16>(x, Rows::new(w.at(0, 0), sizes.0, sizes.1), k, &write, par),
        Elem::F16 => blocks::<f16>(x, Rows::new(w.at(0, 0), sizes.0, sizes.1), k, &write, par),
    }
}

/// `c = x · Wᵀ` for W `[n, k]` in bytes whose rows have scales: `code · scale / 127`. x and c are dense, `[m, k]` and `[m, n]`.
pub(crate) fn eight(x: &[f32], codes: &[i8], scales: &[f32], c: &mut [f32], par: Par) {
    let n = scales.len();
    let k = codes.len() / n.max(1);
    let m = c.len() / n.max(1);
    assert!(codes.len() == n * k && x.len() == m * k && c.len() == m * n);
    if c.is_empty() {
        return;
    }
    let c = Dest {
        ptr: par::Shared::new(c),
        stride: n,
    };
    let write = Write {
        c: &c,
        add: false,
        scale: Scale::Codes(scales),
    };
    blocks(
        Rows::new(x.as_ptr(), k, m),
        Rows::new(codes.as_ptr(), k, n),
        k,
        &write,
        par,
    );
}

/// The rows of a matrix, each contiguous.
#[derive(Clone, Copy)]
struct Rows<T> {
    first: *const T,
    stride: usize,
    count: usize,
}

// SAFETY: a shared borrow of plain numbers, for the length of a call.
unsafe impl<T> Sync for Rows<T> {}

impl<T> Rows<T> {
    fn new(first: *const T, stride: usize, count: usize) -> Self {
        Self { first, stride, count }
    }

    /// `N` rows from `row` on.
    fn from<const N: usize>(&self, row: usize) -> [*const T; N] {
        debug_assert!(row + N <= self.count);
        std::array::from_fn(|i| self.first.wrapping_add((row + i) * self.stride))
    }
}

/// What becomes of a dot product.
struct Write<'a> {
    c: &'a Dest,
    add: bool,
    scale: Scale<'a>,
}

/// Factor of a dot product.
enum Scale<'a> {
    Of(f32),
    /// That of 8-bit codes, by row of W.
    Codes(&'a [f32]),
}

impl Write<'_> {
    #[inline(always)]
    fn put(&self, row: usize, col: usize, sum: f32) {
        let value = match self.scale {
            Scale::Of(scale) => sum * scale,
            Scale::Codes(scales) => sum * scales[col] * INVERSE_127,
        };
        // SAFETY: (row, col) lies inside C and belongs to this task alone.
        unsafe {
            let out = self.c.ptr.ptr().wrapping_add(row * self.c.stride + col);
            *out = if self.add { *out + value } else { value };
        }
    }
}

/// Splits the longer side into tasks.
fn blocks<T: Stored>(x: Rows<f32>, w: Rows<T>, k: usize, write: &Write, par: Par) {
    let by_rows = x.count > w.count;
    let long = x.count.max(w.count);
    let height = match x.count <= FEW {
        true => (TASK / (k * size_of::<T>()).max(1)).next_multiple_of(WIDE).max(WIDE),
        false => ROWS,
    };
    let task = |i: usize| {
        let part = i * height..((i + 1) * height).min(long);
        match by_rows {
            true => block(x, w, part, 0..w.count, k, write),
            false => block(x, w, 0..x.count, part, k, write),
        }
    };
    let tasks = long.div_ceil(height);
    match par {
        Par::One => (0..tasks).for_each(task),
        Par::All if by_rows => par::run(tasks, task),
        Par::All => team::run(tasks, task),
    }
}

fn block<T: Stored>(x: Rows<f32>, w: Rows<T>, rows: Range<usize>, cols: Range<usize>, k: usize, write: &Write) {
    let widens = rows.len() > FEW && T::NARROW;
    let near = (NEAR / (4 * k).max(1)).max(FEW) / HIGH * HIGH;
    let mut wide = scratch::take(if widens { WIDE * k } else { 0 });
    for first in rows.clone().step_by(near) {
        let rows = first..(first + near).min(rows.end);
        for col in cols.clone().step_by(WIDE) {
            let cols = col..(col + WIDE).min(cols.end);
            if !widens {
                pairs(x, w, 0, rows.clone(), cols, k, write);
                continue;
            }
            for (row, wide) in cols.clone().zip(wide.chunks_exact_mut(k.max(1))) {
                let [row] = w.from(row);
                // SAFETY: the rows have k values.
                unsafe { tile::widen(row, wide) };
            }
            let w = Rows::new(wide.as_ptr(), k, cols.len());
            pairs(x, w, col, rows.clone(), cols, k, write);
        }
    }
}

/// Rows of x against up to [`WIDE`] rows of W, which begins with row `start`.
fn pairs<T: Stored>(
    x: Rows<f32>,
    w: Rows<T>,
    start: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    k: usize,
    write: &Write,
) {
    for row in rows.clone().step_by(HIGH) {
        match rows.end - row {
            1 => strip::<T, 1>(x, w, start, row, cols.clone(), k, write),
            _ => strip::<T, 2>(x, w, start, row, cols.clone(), k, write),
        }
    }
}

/// `R` rows of x, as many rows of W at once as there are registers for.
fn strip<T: Stored, const R: usize>(
    x: Rows<f32>,
    w: Rows<T>,
    start: usize,
    row: usize,
    cols: Range<usize>,
    k: usize,
    write: &Write,
) {
    match (cols.len(), R) {
        (WIDE, 1) => put::<T, R, WIDE>(x, w, start, row, cols.start, k, write),
        (WIDE, _) => {
            put::<T, R, 2>(x, w, start, row, cols.start, k, write);
            put::<T, R, 2>(x, w, start, row, cols.start + 2, k, write);
        }
        _ => cols.for_each(|col| put::<T, R, 1>(x, w, start, row, col, k, write)),
    }
}

#[inline(always)]
fn put<T: Stored, const R: usize, const C: usize>(
    x: Rows<f32>,
    w: Rows<T>,
    start: usize,
    row: usize,
    col: usize,
    k: usize,
    write: &Write,
) {
    // SAFETY: the rows have k values.
    let sums = unsafe { tile::<T, R, C>(x.from(row), w.from(col - start), k) };
    for (r, sums) in sums.iter().enumerate() {
        for (c, &sum) in sums.iter().enumerate() {
            write.put(row + r, col + c, sum);
        }
    }
}

/// `c[i · stride + j] = scale · x_i · w_j` on the calling thread, for x `[m, k]` and w `[n, k]` of contiguous rows. The order of each
/// sum does not depend on m or n.
pub(crate) fn dot_products(x: Mat, w: Mat, scale: f32, c: &mut [f32], stride: usize) {
    let (m, n, k) = (x.rows(), w.rows(), x.cols());
    assert!(w.cols() == k && x.col_stride() == 1 && w.col_stride() == 1 && n <= stride);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * stride + n <= c.len());
    let c = Dest {
        ptr: par::Shared::new(c),
        stride,
    };
    let write = Write {
        c: &c,
        add: false,
        scale: Scale::Of(scale),
    };
    let x = Rows::new(x.at(0, 0), x.row_stride(), m);
    block(
        x,
        Rows::<f32>::new(w.at(0, 0), w.row_stride(), n),
        0..m,
        0..n,
        k,
        &write,
    );
}
