//! Dot products of vectors with rows of a matrix in 4-bit codes, straight from the codes: decoding.
//!
//! ```text
//! 32 codes: 16 bytes -> upper halves: values 0 2 4 ..   lower halves: values 1 3 5 ..
//! x is put in the same order once, so that the values need no shuffling
//! ```
use super::Coded;
use crate::cpu::gemm::Mat;
use crate::cpu::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::loads;
use crate::cpu::scratch::{self, Scratch};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

/// Codes that are taken at once.
const STEP: usize = 32;

/// Vectors in the order in which codes are unpacked.
pub(crate) struct Interleaved {
    memory: Scratch,
    count: usize,
    width: usize,
    runs: Runs,
}

/// How scales lie along the rows.
#[derive(Debug, Clone, Copy)]
struct Runs {
    /// Values from the start of a row, or from a multiple of this on, that share a scale in every row.
    len: usize,
    /// Binary logarithm of the values that share a scale.
    shift: u32,
}

impl Runs {
    fn of(w: &Coded) -> Option<Self> {
        let (block, cols) = (w.form.block(), w.width());
        if cols == 0 {
            return None;
        }
        // The largest power of two that divides both.
        block.is_power_of_two().then(|| Self {
            len: block.min(1 << cols.trailing_zeros()),
            shift: block.trailing_zeros(),
        })
    }
}

impl Interleaved {
    /// The rows of `x` for products with `w`; `None` where there is no code for this machine, shape or width of codes.
    pub(crate) fn new(x: Mat, w: &Coded) -> Option<Self> {
        let (lanes, _) = (lanes()?, w.table()?);
        let (count, width) = (x.rows(), x.cols());
        let runs = Runs::of(w)?;
        if !width.is_multiple_of(STEP) || !runs.len.is_multiple_of(STEP) || x.col_stride() != 1 || w.width() != width {
            return None;
        }
        let mut memory = scratch::take(count * width);
        for (row, out) in memory.chunks_exact_mut(width).enumerate() {
            // SAFETY: a row of `width` contiguous values.
            let x = unsafe { std::slice::from_raw_parts(x.at::<f32>(row, 0), width) };
            split_pairs(x, lanes, out);
        }
        Some(Self {
            memory,
            count,
            width,
            runs,
        })
    }
}

/// Values in a register.
fn lanes() -> Option<usize> {
    match Isa::detect() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Some(16),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(8),
        Isa::Base => None,
    }
}

/// In each group of `2 · lanes`, the even ones first.
fn split_pairs(x: &[f32], lanes: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(2 * lanes).zip(out.chunks_exact_mut(2 * lanes)) {
        let (even, odd) = out.split_at_mut(lanes);
        for ((pair, even), odd) in x.chunks_exact(2).zip(even).zip(odd) {
            (*even, *odd) = (pair[0], pair[1]);
        }
    }
}

/// `put(vector, row, x[vector] · w[row])` for every vector and each of the rows.
pub(crate) fn dots(x: &Interleaved, w: &Coded, rows: Range<usize>, put: &mut impl FnMut(usize, usize, f32)) {
    assert!(rows.end <= w.height() && x.width == w.width());
    for first in (0..x.count).step_by(4) {
        match (x.count - first).min(4) {
            4 => some::<4>(x, w, first, rows.clone(), put),
            3 => some::<3>(x, w, first, rows.clone(), put),
            2 => some::<2>(x, w, first, rows.clone(), put),
            _ => some::<1>(x, w, first, rows.clone(), put),
        }
    }
}

/// Vectors `first..first + N`, which share the decoded values.
fn some<const N: usize>(
    x: &Interleaved,
    w: &Coded,
    first: usize,
    rows: Range<usize>,
    put: &mut impl FnMut(usize, usize, f32),
) {
    let xs: [&[f32]; N] = std::array::from_fn(|i| &x.memory[(first + i) * x.width..][..x.width]);
    let mut put = |vector: usize, row: usize, sum: f32| put(first + vector, row, sum);
    let table = w.table().expect("`Interleaved::new` asked for it");
    match Isa::detect() {
        // SAFETY: `detect` saw the instructions; widths and runs are multiples of 32 values.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { rows_avx512(xs, w, table, rows, x.runs, &mut put) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { rows_avx2(xs, w, table, rows, x.runs, &mut put) },
        Isa::Base => unreachable!("`Interleaved::new` gives none"),
    }
}

/// # Safety
/// AVX-512; the rows of `w`, their runs and the vectors are multiples of 32 long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn rows_avx512<const N: usize>(
    xs: [&[f32]; N],
    w: &Coded,
    table: &[f32; 16],
    rows: Range<usize>,
    runs: Runs,
    put: &mut impl FnMut(usize, usize, f32),
) {
    for row in (rows.start..rows.end - rows.len() % 2).step_by(2) {
        // SAFETY: the caller's promise.
        let sums = unsafe { avx512::<2, N>(xs, w, table, row, runs) };
        give(row, &sums, put);
    }
    if rows.len() % 2 == 1 {
        // SAFETY: the caller's promise.
        let sums = unsafe { avx512::<1, N>(xs, w, table, rows.end - 1, runs) };
        give(rows.end - 1, &sums, put);
    }
}

/// # Safety
/// As [`rows_avx512`], for rows `row..row + R`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
#[inline]
unsafe fn avx512<const R: usize, const N: usize>(
    xs: [&[f32]; N],
    w: &Coded,
    table: &[f32; 16],
    row: usize,
    runs: Runs,
) -> [[f32; N]; R] {
    // SAFETY: sixteen values.
    let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let cols = w.form.cols;
    let xs: [*const f32; N] = std::array::from_fn(|i| xs[i][..cols].as_ptr());
    let codes: [*const u8; R] = std::array::from_fn(|r| w.bytes[(row + r) * cols / 2..][..cols / 2].as_ptr());
    let mut total = [[_mm512_setzero_ps(); N]; R];
    let (mut from, mut at) = (0, 0);
    while from < cols {
        let mut acc = [[_mm512_setzero_ps(); N]; R];
        while at < from + runs.len {
            // SAFETY: 32 codes of each row and 32 values of each vector from `at` on.
            unsafe {
                for (codes, acc) in codes.iter().zip(&mut acc) {
                    let codes = _mm512_cvtepu8_epi32(loads::bytes16(codes.wrapping_add(at / 2)));
                    // The look-up ignores all bits above the lowest four.
                    let upper = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), table);
                    let lower = _mm512_permutexvar_ps(codes, table);
                    for (acc, x) in acc.iter_mut().zip(&xs) {
                        let x = x.wrapping_add(at);
                        *acc = _mm512_fmadd_ps(upper, loads::f32x16(x), *acc);
                        *acc = _mm512_fmadd_ps(lower, loads::f32x16(x.wrapping_add(16)), *acc);
                    }
                }
            }
            at += 32;
        }
        for (r, (total, acc)) in total.iter_mut().zip(acc).enumerate() {
            let scale = _mm512_set1_ps(w.scales[(((row + r) * cols + from) >> runs.shift) - w.first]);
            for (total, acc) in total.iter_mut().zip(acc) {
                *total = _mm512_fmadd_ps(acc, scale, *total);
            }
        }
        from = at;
    }
    total.map(|total| total.map(|sum| _mm512_reduce_add_ps(sum)))
}

/// # Safety
/// AVX2, FMA and F16C; the rows of `w`, their runs and the vectors are multiples of 32 long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_avx2<const N: usize>(
    xs: [&[f32]; N],
    w: &Coded,
    table: &[f32; 16],
    rows: Range<usize>,
    runs: Runs,
    put: &mut impl FnMut(usize, usize, f32),
) {
    // Accumulators of two rows and three vectors do not fit into the registers.
    let together = if N <= 2 { rows.len() / 2 * 2 } else { 0 };
    for row in (rows.start..rows.start + together).step_by(2) {
        // SAFETY: the caller's promise.
        let sums = unsafe { avx2::<2, N>(xs, w, table, row, runs) };
        give(row, &sums, put);
    }
    for row in rows.start + together..rows.end {
        // SAFETY: the caller's promise.
        let sums = unsafe { avx2::<1, N>(xs, w, table, row, runs) };
        give(row, &sums, put);
    }
}

/// # Safety
/// As [`rows_avx2`], for rows `row..row + R`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn avx2<const R: usize, const N: usize>(
    xs: [&[f32]; N],
    w: &Coded,
    table: &[f32; 16],
    row: usize,
    runs: Runs,
) -> [[f32; N]; R] {
    let (cols, table) = (w.form.cols, super::decode::halves(table));
    let xs: [*const f32; N] = std::array::from_fn(|i| xs[i][..cols].as_ptr());
    let codes: [*const u8; R] = std::array::from_fn(|r| w.bytes[(row + r) * cols / 2..][..cols / 2].as_ptr());
    let mut total = [[_mm256_setzero_ps(); N]; R];
    let (mut from, mut at) = (0, 0);
    while from < cols {
        let mut acc = [[[_mm256_setzero_ps(); 2]; N]; R];
        while at < from + runs.len {
            for (codes, acc) in codes.iter().zip(&mut acc) {
                // SAFETY: 32 codes of each row from `at` on.
                let bytes = unsafe { loads::bytes16(codes.wrapping_add(at / 2)) };
                for (half, bytes) in [bytes, _mm_unpackhi_epi64(bytes, bytes)].into_iter().enumerate() {
                    let codes = _mm256_cvtepu8_epi32(bytes);
                    let upper = super::decode::look_up8(_mm256_srli_epi32::<4>(codes), table);
                    let lower = super::decode::look_up8(codes, table);
                    for (acc, x) in acc.iter_mut().zip(&xs) {
                        let x = x.wrapping_add(at + 16 * half);
                        // SAFETY: 32 values of each vector from `at` on.
                        unsafe {
                            acc[0] = _mm256_fmadd_ps(upper, loads::f32x8(x), acc[0]);
                            acc[1] = _mm256_fmadd_ps(lower, loads::f32x8(x.wrapping_add(8)), acc[1]);
                        }
                    }
                }
            }
            at += 32;
        }
        for (r, (total, acc)) in total.iter_mut().zip(acc).enumerate() {
            let scale = _mm256_set1_ps(w.scales[(((row + r) * cols + from) >> runs.shift) - w.first]);
            for (total, [a, b]) in total.iter_mut().zip(acc) {
                *total = _mm256_fmadd_ps(_mm256_add_ps(a, b), scale, *total);
            }
        }
        from = at;
    }
    total.map(|total| total.map(|sum| loads::sum8(sum)))
}

/// Hands the sums of rows `row..` on.
#[cfg(target_arch = "x86_64")]
fn give<const N: usize>(row: usize, sums: &[[f32; N]], put: &mut impl FnMut(usize, usize, f32)) {
    for (r, sums) in sums.iter().enumerate() {
        sums.iter().enumerate().for_each(|(i, sum)| put(i, row + r, *sum));
    }
}
