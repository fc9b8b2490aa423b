//! Dot products of a few vectors with rows of a packed matrix, straight from the codes: decoding.
//!
//! ```text
//! 32 codes: 16 bytes -> upper halves: values 0 2 4 ..   lower halves: values 1 3 5 ..
//! x is put in the same order once, so that the values need no shuffling
//! ```
use super::Coded;
use crate::cpu::gemm::Mat;
use crate::cpu::isa::Isa;
use crate::cpu::scratch::{self, Scratch};
use crate::packed::INVERSE_127;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

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
        match w.table() {
            None => Some(Self { len: cols, shift: 0 }),
            // The largest power of two that divides both.
            Some(_) => block.is_power_of_two().then(|| Self {
                len: block.min(1 << cols.trailing_zeros()),
                shift: block.trailing_zeros(),
            }),
        }
    }
}

impl Interleaved {
    /// The rows of `x` for products with `w`; `None` where the code for this machine or shape is the general one.
    pub(crate) fn new(x: Mat, w: &Coded) -> Option<Self> {
        let lanes = lanes()?;
        let (count, width) = (x.rows(), x.cols());
        let runs = Runs::of(w)?;
        if !width.is_multiple_of(2 * lanes)
            || !runs.len.is_multiple_of(2 * lanes)
            || x.col_stride() != 1
            || w.width() != width
        {
            return None;
        }
        let mut memory = scratch::take(count * width);
        for (row, out) in memory.chunks_exact_mut(width).enumerate() {
            // SAFETY: a row of `width` contiguous values.
            let x = unsafe { std::slice::from_raw_parts(x.at::<f32>(row, 0), width) };
            match w.table() {
                Some(_) => split_pairs(x, lanes, out),
                None => out.copy_from_slice(x),
            }
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
    match Isa::detect() {
        // SAFETY: `detect` saw the instructions; widths and runs are multiples of 32 values.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { rows_avx512(xs, w, rows, x.runs, &mut put) },
        // SAFETY: as above, of 16 values.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { rows_avx2(xs, w, rows, x.runs, &mut put) },
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
    rows: Range<usize>,
    runs: Runs,
    put: &mut impl FnMut(usize, usize, f32),
) {
    let pairs = rows.len() / 2;
    let mut take = |row: usize, sums: &[[f32; N]]| {
        for (r, sums) in sums.iter().enumerate() {
            sums.iter().enumerate().for_each(|(i, sum)| put(i, row + r, *sum));
        }
    };
    for pair in 0..pairs {
        let row = rows.start + 2 * pair;
        // SAFETY: the caller's promise.
        let sums = unsafe {
            match w.table() {
                Some(table) => four_avx512::<2, N>(xs, w, table, row, runs),
                None => eight_avx512::<2, N>(xs, w, row),
            }
        };
        take(row, &sums);
    }
    if rows.len() % 2 == 1 {
        let row = rows.end - 1;
        // SAFETY: the caller's promise.
        let sums = unsafe {
            match w.table() {
                Some(table) => four_avx512::<1, N>(xs, w, table, row, runs),
                None => eight_avx512::<1, N>(xs, w, row),
            }
        };
        take(row, &sums);
    }
}

/// # Safety
/// As [`rows_avx512`], for rows `row..row + R`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
#[inline]
unsafe fn four_avx512<const R: usize, const N: usize>(
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
                    let codes = _mm512_cvtepu8_epi32(load_bytes(codes.wrapping_add(at / 2)));
                    // The look-up ignores all bits above the lowest four.
                    let upper = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), table);
                    let lower = _mm512_permutexvar_ps(codes, table);
                    for (acc, x) in acc.iter_mut().zip(&xs) {
                        let x = x.wrapping_add(at);
                        *acc = _mm512_fmadd_ps(upper, load(x), *acc);
                        *acc = _mm512_fmadd_ps(lower, load(x.wrapping_add(16)), *acc);
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
/// As [`four_avx512`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
#[inline]
unsafe fn eight_avx512<const R: usize, const N: usize>(xs: [&[f32]; N], w: &Coded, row: usize) -> [[f32; N]; R] {
    let cols = w.form.cols;
    let xs: [*const f32; N] = std::array::from_fn(|i| xs[i][..cols].as_ptr());
    let codes: [*const u8; R] = std::array::from_fn(|r| w.bytes[(row + r) * cols..][..cols].as_ptr());
    let mut acc = [[[_mm512_setzero_ps(); 2]; N]; R];
    let mut at = 0;
    while at < cols {
        // SAFETY: 32 codes of each row and 32 values of each vector from `at` on.
        unsafe {
            for (codes, acc) in codes.iter().zip(&mut acc) {
                let wide = |half: *const u8| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_bytes(half)));
                let (a, b) = (wide(codes.wrapping_add(at)), wide(codes.wrapping_add(at + 16)));
                for (acc, x) in acc.iter_mut().zip(&xs) {
                    let x = x.wrapping_add(at);
                    acc[0] = _mm512_fmadd_ps(a, load(x), acc[0]);
                    acc[1] = _mm512_fmadd_ps(b, load(x.wrapping_add(16)), acc[1]);
                }
            }
        }
        at += 32;
    }
    std::array::from_fn(|r| {
        let scale = w.scales[row + r - w.first];
        acc[r].map(|[a, b]| _mm512_reduce_add_ps(_mm512_add_ps(a, b)) * scale * INVERSE_127)
    })
}

/// Sixteen values. Written as a masked load: the plain one is checked in builds with debug assertions, at several times the
/// cost of the product. Pointers are moved by `wrapping_add` for the same reason.
///
/// # Safety
/// AVX-512, sixteen readable values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(from: *const f32) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_maskz_loadu_ps(!0, from) }
}

/// Sixteen bytes, as [`load`].
///
/// # Safety
/// AVX-512, sixteen readable bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn load_bytes(from: *const u8) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_maskz_loadu_epi8(!0, from.cast()) }
}

/// # Safety
/// AVX2, FMA and F16C; the rows of `w`, their runs and the vectors are multiples of 16 long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_avx2<const N: usize>(
    xs: [&[f32]; N],
    w: &Coded,
    rows: Range<usize>,
    runs: Runs,
    put: &mut impl FnMut(usize, usize, f32),
) {
    for row in rows {
        // SAFETY: the caller's promise.
        let sums = unsafe {
            match w.table() {
                Some(table) => four_avx2(xs, w, table, row, runs),
                None => eight_avx2(xs, w, row),
            }
        };
        sums.iter().enumerate().for_each(|(i, sum)| put(i, row, *sum));
    }
}

/// # Safety
/// As [`rows_avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn four_avx2<const N: usize>(xs: [&[f32]; N], w: &Coded, table: &[f32; 16], row: usize, runs: Runs) -> [f32; N] {
    let (cols, table) = (w.form.cols, super::decode::halves(table));
    let codes = w.bytes[row * cols / 2..][..cols / 2].as_ptr();
    let mut total = [_mm256_setzero_ps(); N];
    for from in (0..cols).step_by(runs.len) {
        let mut acc = [_mm256_setzero_ps(); N];
        for at in (from..from + runs.len).step_by(16) {
            // SAFETY: 16 codes of the row and 16 values of each vector from `at` on.
            unsafe {
                let codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.add(at / 2).cast()));
                let upper = super::decode::look_up8(_mm256_srli_epi32::<4>(codes), table);
                let lower = super::decode::look_up8(codes, table);
                for (acc, x) in acc.iter_mut().zip(&xs) {
                    let x = x.as_ptr().add(at);
                    *acc = _mm256_fmadd_ps(upper, _mm256_loadu_ps(x), *acc);
                    *acc = _mm256_fmadd_ps(lower, _mm256_loadu_ps(x.add(8)), *acc);
                }
            }
        }
        let scale = _mm256_set1_ps(w.scales[((row * cols + from) >> runs.shift) - w.first]);
        for (total, acc) in total.iter_mut().zip(acc) {
            *total = _mm256_fmadd_ps(acc, scale, *total);
        }
    }
    total.map(|sum| sum8(sum))
}

/// # Safety
/// As [`rows_avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn eight_avx2<const N: usize>(xs: [&[f32]; N], w: &Coded, row: usize) -> [f32; N] {
    let mut acc = [_mm256_setzero_ps(); N];
    let bytes = &w.bytes[row * w.form.cols..][..w.form.cols];
    for (i, bytes) in bytes.chunks_exact(8).enumerate() {
        // SAFETY: eight bytes; as many values of each vector from 8 i on.
        unsafe {
            let values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast())));
            for (acc, x) in acc.iter_mut().zip(&xs) {
                *acc = _mm256_fmadd_ps(values, _mm256_loadu_ps(x.as_ptr().add(8 * i)), *acc);
            }
        }
    }
    let scale = w.scales[row - w.first];
    acc.map(|acc| sum8(acc) * scale * INVERSE_127)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn sum8(v: __m256) -> f32 {
    let mut lanes = [0.0f32; 8];
    // SAFETY: `lanes` holds 8 values.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), v) };
    lanes.iter().sum()
}
