//! Products with few rows or few columns, both factors contiguous along k: blocks of dot products, nothing is packed.
//!
//! Decoding (one row of x against all of W) and the narrow side of a low-rank update have this form.
use super::transpose::Lanes;
use super::{Dest, Elem, Mat, Par, Term};
use crate::cpu::isa::Isa;
use crate::cpu::par;
use crate::row_invariant;
use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// At most this many rows (or columns).
const NARROW: usize = 16;
/// Row-invariant products of this depth and more are dot products however many rows they have; flatter ones never are.
const DEEP: usize = 32;
/// Rows of one factor per task.
const TASK: usize = 64;

/// Whether all terms have the form `x · Wᵀ` with contiguous rows and one side is narrow.
pub(super) fn suits(terms: &[Term], m: usize, n: usize) -> bool {
    let along_k = |t: &Term| t.a.col_stride() == 1 && t.b.dense().is_some_and(|b| b.row_stride() == 1);
    let few = match row_invariant::on() {
        true => terms.iter().all(|t| t.a.cols() >= DEEP),
        false => m <= 8,
    };
    let narrow = few || (n <= NARROW && terms.iter().all(|t| t.b.plain().is_some()));
    narrow && terms.iter().all(along_k)
}

/// `c (+)= scale · a · b`.
pub(super) fn run(term: &Term, c: &Dest, add: bool, par: Par) {
    let w = term.b.dense().expect("what suits is dense").t(); // [n, k]
    match w.elem() {
        Elem::F32 => blocks::<f32>(term, w, c, add, par),
        Elem::Bf16 => blocks::<bf16>(term, w, c, add, par),
        Elem::F16 => blocks::<f16>(term, w, c, add, par),
    }
}

/// Splits the longer side into tasks.
fn blocks<T: Lanes>(term: &Term, w: Mat, c: &Dest, add: bool, par: Par) {
    let x = term.a;
    let by_rows = x.rows() > w.rows();
    let long = if by_rows { x.rows() } else { w.rows() };
    let task = |i: usize| {
        let (start, len) = (i * TASK, TASK.min(long - i * TASK));
        let (rows, cols) = if by_rows {
            ((start, len), (0, w.rows()))
        } else {
            ((0, x.rows()), (start, len))
        };
        block::<T>(
            x,
            w,
            rows,
            cols,
            &Write {
                c,
                add,
                scale: term.scale,
            },
        );
    };
    match par {
        Par::One => (0..long.div_ceil(TASK)).for_each(task),
        Par::All => par::run(long.div_ceil(TASK), task),
    }
}

/// What becomes of a dot product.
struct Write<'a> {
    c: &'a Dest,
    add: bool,
    scale: f32,
}

impl Write<'_> {
    #[inline(always)]
    fn put(&self, row: usize, col: usize, value: f32) {
        let value = value * self.scale;
        // SAFETY: (row, col) lies inside C and belongs to this task alone.
        unsafe {
            let out = self.c.ptr.ptr().add(row * self.c.stride + col);
            *out = if self.add { *out + value } else { value };
        }
    }
}

fn block<T: Lanes>(x: Mat, w: Mat, rows: (usize, usize), cols: (usize, usize), write: &Write) {
    for col in (cols.0..cols.0 + cols.1).step_by(4) {
        let wide = (cols.0 + cols.1 - col).min(4);
        for row in (rows.0..rows.0 + rows.1).step_by(4) {
            let high = (rows.0 + rows.1 - row).min(4);
            match (high, wide) {
                (4, 4) => tile::<T, 4, 4>(x, w, row, col, write),
                (3, 4) => tile::<T, 3, 4>(x, w, row, col, write),
                (2, 4) => tile::<T, 2, 4>(x, w, row, col, write),
                (1, 4) => tile::<T, 1, 4>(x, w, row, col, write),
                _ => {
                    for r in row..row + high {
                        (col..col + wide).for_each(|c| tile::<T, 1, 1>(x, w, r, c, write));
                    }
                }
            }
        }
    }
}

fn tile<T: Lanes, const R: usize, const C: usize>(x: Mat, w: Mat, row: usize, col: usize, write: &Write) {
    let k = x.cols();
    let xs: [*const f32; R] = std::array::from_fn(|r| x.at(row + r, 0));
    let ws: [*const T; C] = std::array::from_fn(|c| w.at(col + c, 0));
    // SAFETY: rows of k contiguous values; `detect` saw the instructions.
    let sums = unsafe {
        match Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(xs, ws, k),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(xs, ws, k),
            Isa::Base => plain(xs, ws, 0..k),
        }
    };
    for (r, sums) in sums.iter().enumerate() {
        sums.iter()
            .enumerate()
            .for_each(|(c, &sum)| write.put(row + r, col + c, sum));
    }
}

/// # Safety
/// Each pointer has the values of `range`.
unsafe fn plain<T: Lanes, const R: usize, const C: usize>(
    xs: [*const f32; R],
    ws: [*const T; C],
    range: std::ops::Range<usize>,
) -> [[f32; C]; R] {
    // SAFETY: the caller's promise.
    let dot = |x: *const f32, w: *const T| range.clone().map(|k| unsafe { *x.add(k) * (*w.add(k)).to_f32() }).sum();
    xs.map(|x| ws.map(|w| dot(x, w)))
}

/// # Safety
/// Each pointer has `k` values; AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
unsafe fn avx512<T: Lanes, const R: usize, const C: usize>(
    xs: [*const f32; R],
    ws: [*const T; C],
    k: usize,
) -> [[f32; C]; R] {
    let mut acc = [[_mm512_setzero_ps(); C]; R];
    let whole = k / 16 * 16;
    for i in (0..whole).step_by(16) {
        ws.iter()
            .for_each(|w| _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(i + C * k).cast()));
        // SAFETY: 16 values from i are inside the rows.
        let w: [__m512; C] = std::array::from_fn(|c| unsafe { T::load16(ws[c].add(i)) });
        for (x, acc) in xs.iter().zip(&mut acc) {
            // SAFETY: as above.
            let x = unsafe { _mm512_loadu_ps(x.add(i)) };
            acc.iter_mut()
                .zip(&w)
                .for_each(|(a, w)| *a = _mm512_fmadd_ps(x, *w, *a));
        }
    }
    // SAFETY: the rest of the rows.
    let mut sums = if whole < k {
        unsafe { plain(xs, ws, whole..k) }
    } else {
        [[0.0; C]; R]
    };
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        sums.iter_mut()
            .zip(acc)
            .for_each(|(s, a)| *s += _mm512_reduce_add_ps(*a));
    }
    sums
}

/// # Safety
/// Each pointer has `k` values; AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<T: Lanes, const R: usize, const C: usize>(
    xs: [*const f32; R],
    ws: [*const T; C],
    k: usize,
) -> [[f32; C]; R] {
    let mut acc = [[_mm256_setzero_ps(); C]; R];
    let whole = k / 8 * 8;
    for i in (0..whole).step_by(8) {
        // SAFETY: 8 values from i are inside the rows.
        let w: [__m256; C] = std::array::from_fn(|c| unsafe { T::load8(ws[c].add(i)) });
        for (x, acc) in xs.iter().zip(&mut acc) {
            // SAFETY: as above.
            let x = unsafe { _mm256_loadu_ps(x.add(i)) };
            acc.iter_mut()
                .zip(&w)
                .for_each(|(a, w)| *a = _mm256_fmadd_ps(x, *w, *a));
        }
    }
    // SAFETY: the rest of the rows.
    let mut sums = if whole < k {
        unsafe { plain(xs, ws, whole..k) }
    } else {
        [[0.0; C]; R]
    };
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            let mut lanes = [0.0f32; 8];
            // SAFETY: `lanes` holds 8 values.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), *acc) };
            *sum += lanes.iter().sum::<f32>();
        }
    }
    sums
}
