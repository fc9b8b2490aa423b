//! Products with a matrix in 4-bit or 8-bit codes: unpacked a slab of rows at a time, by all threads.
use super::flex::{contiguous, fresh, rows, tensor, values, with_last};
use super::gemm::{Mat, Par, Term, gemm};
use super::isa::{Isa, multiversion};
use super::{par, scratch};
use crate::frozen_matmul::{Codes, Form, INVERSE_127, ScaleCodes};
use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Values of a slab: 8 MiB of f32.
const SLAB: usize = 2 << 20;
/// Rows of a slab at least: packing the left factor again for each slab is then cheap beside the product.
const SLAB_ROWS: usize = 512;
/// Up to this many rows of x, slabs are so small that they never leave the cache.
const FEW: usize = 8;
/// Values per task.
const TASK: usize = 16 << 10;

/// A packed matrix `[rows, cols]` in memory.
pub(crate) struct View<'a> {
    bytes: &'a [u8],
    scales: Scales<'a>,
    form: Form,
}

enum Scales<'a> {
    Plain(&'a [f32]),
    /// Codes, their scales, and what they mean.
    Nested(&'a [u8], &'a [f32], crate::frozen_matmul::Nested),
}

/// Runs `f` with the view of the tensors.
pub(crate) fn with_view<R>(
    words: FlexTensor,
    scales: FlexTensor,
    codes: ScaleCodes<Flex>,
    form: Form,
    f: impl FnOnce(&View<'_>) -> R,
) -> R {
    let (words, scales) = (contiguous(words), contiguous(scales));
    let codes = match codes {
        ScaleCodes::Absent => None,
        ScaleCodes::Words(words) => Some(contiguous(words)),
    };
    let scales = match (&codes, form.nested) {
        (Some(codes), Some(nested)) => Scales::Nested(bytes(codes), values(&scales), nested),
        _ => Scales::Plain(values(&scales)),
    };
    f(&View {
        bytes: bytes(&words),
        scales,
        form,
    })
}

/// The bytes of u32 words, the lowest first.
fn bytes(words: &FlexTensor) -> &[u8] {
    let (start, end) = words.layout().contiguous_offsets().expect("made contiguous");
    let words = &words.storage::<u32>()[start..end];
    const { assert!(cfg!(target_endian = "little"), "the first byte is the lowest") };
    // SAFETY: u32 has no padding, and any alignment suits u8.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 4) }
}

impl View<'_> {
    /// All values.
    pub(crate) fn unpack(&self) -> FlexTensor {
        let (rows, cols) = (self.form.rows, self.form.cols);
        let mut out = fresh(rows * cols);
        self.rows(0, &mut out);
        tensor(out, [rows, cols])
    }

    /// `x [.., in] · Wᵀ`.
    pub(crate) fn forward(&self, x: FlexTensor) -> FlexTensor {
        let (n, x) = (self.form.rows, contiguous(x));
        let shape = with_last(&x.shape(), n);
        let a = rows(&x);
        let mut out = fresh(a.rows() * n);
        if a.rows() <= FEW {
            self.few(a, &mut out);
        } else {
            self.slabs(|first, count, w| {
                gemm(&[Term::new(a, w.t())], &mut out[first..], n, false, Par::All);
                debug_assert_eq!(w.rows(), count);
            });
        }
        tensor(out, shape)
    }

    /// Gradient to x: `dy [.., out] · W`.
    pub(crate) fn input_gradient(&self, dy: FlexTensor) -> FlexTensor {
        let (cols, dy) = (self.form.cols, contiguous(dy));
        let shape = with_last(&dy.shape(), cols);
        let a = rows(&dy);
        let mut out = fresh(a.rows() * cols);
        if self.form.rows == 0 {
            out.fill(0.0);
        }
        self.slabs(|first, count, w| {
            let term = Term::new(a.narrow_cols(first, count), w);
            gemm(&[term], &mut out, cols, first > 0, Par::All);
        });
        tensor(out, shape)
    }

    /// Runs `f(first row, rows, their values)` for one slab after the other.
    fn slabs(&self, mut f: impl FnMut(usize, usize, Mat<'_>)) {
        let (n, k) = (self.form.rows, self.form.cols);
        let height = (SLAB / k.max(1)).max(SLAB_ROWS).min(n);
        let mut slab = scratch::take(height * k);
        for first in (0..n).step_by(height.max(1)) {
            let count = height.min(n - first);
            let slab = &mut slab[..count * k];
            self.rows(first, slab);
            f(first, count, Mat::new(slab, count, k));
        }
    }

    /// A product with few rows: every task unpacks some rows of W and uses them at once.
    fn few(&self, x: Mat<'_>, out: &mut [f32]) {
        let (m, n, k) = (x.rows(), self.form.rows, self.form.cols);
        let height = TASK.div_ceil(k.max(1)).min(n.max(1));
        let shared = par::Shared::new(out);
        par::run(n.div_ceil(height), |task| {
            let first = task * height;
            let count = height.min(n - first);
            let mut w = scratch::take(count * k);
            self.decode(first * k, &mut w);
            let mut y = scratch::take(m * count);
            gemm(
                &[Term::new(x, Mat::new(&w, count, k).t())],
                &mut y,
                count,
                false,
                Par::One,
            );
            for (i, y) in y.chunks_exact(count).enumerate() {
                // SAFETY: columns first..first + count of row i belong to this task alone.
                unsafe { shared.slice(i * n + first, count) }.copy_from_slice(y);
            }
        });
    }

    /// Rows from `first` on, as many as fill `out`, by all threads.
    fn rows(&self, first: usize, out: &mut [f32]) {
        let start = first * self.form.cols;
        let len = out.len();
        let shared = par::Shared::new(out);
        par::run(len.div_ceil(TASK), |task| {
            let from = task * TASK;
            // SAFETY: every task has its own values.
            let out = unsafe { shared.slice(from, TASK.min(len - from)) };
            self.decode(start + from, out);
        });
    }

    /// Values of the flattened matrix from `start` on, as many as fill `out`.
    fn decode(&self, start: usize, out: &mut [f32]) {
        let (block, mut at, mut rest) = (self.form.block(), start, out);
        while !rest.is_empty() {
            let index = at / block;
            let len = ((index + 1) * block - at).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            let scale = self.scales.get(index);
            match self.form.codes {
                Codes::Four { table, .. } => nibbles(self.bytes, at, table, scale, now),
                Codes::Eight => signed_bytes(&self.bytes[at..at + len], scale, now),
            }
            at += len;
            rest = later;
        }
    }
}

impl Scales<'_> {
    #[inline]
    fn get(&self, index: usize) -> f32 {
        match self {
            Scales::Plain(scales) => scales[index],
            Scales::Nested(codes, scales, form) => {
                form.map[usize::from(codes[index])] * scales[index / form.block] + form.offset
            }
        }
    }
}

multiversion! {
    fn signed_bytes(codes: &[u8], scale: f32, out: &mut [f32]) {
        for (value, code) in out.iter_mut().zip(codes) {
            *value = f32::from(*code as i8) * scale * INVERSE_127;
        }
    }
}

/// `table[code] · scale` for the 4-bit codes from number `start` on.
fn nibbles(bytes: &[u8], start: usize, table: &[f32; 16], scale: f32, out: &mut [f32]) {
    // An odd start begins in the lower half of a byte.
    let odd = (start % 2).min(out.len());
    let (first, out) = out.split_at_mut(odd);
    if let Some(value) = first.first_mut() {
        *value = table[usize::from(bytes[start / 2] & 15)] * scale;
    }
    let from = start.div_ceil(2);
    let bytes = &bytes[from..from + out.len().div_ceil(2)];
    match Isa::detect() {
        // SAFETY: `detect` saw the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(bytes, table, scale, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(bytes, table, scale, out) },
        Isa::Base => plain(bytes, table, scale, out),
    }
}

fn plain(bytes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
    for (pair, byte) in out.chunks_mut(2).zip(bytes) {
        pair[0] = table[usize::from(byte >> 4)] * scale;
        if let Some(second) = pair.get_mut(1) {
            *second = table[usize::from(byte & 15)] * scale;
        }
    }
}

/// Sixteen codes at a time, looked up in a register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn avx512(bytes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
    // SAFETY: sixteen values.
    let table_register = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let wide = _mm512_set1_ps(scale);
    let shifts = _mm512_set_epi32(0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4);
    let whole = out.len() / 16;
    for (codes, values) in bytes.chunks_exact(8).zip(out.chunks_exact_mut(16)) {
        // SAFETY: eight bytes and sixteen values.
        unsafe {
            let codes = _mm_loadl_epi64(codes.as_ptr().cast());
            let twice = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(codes, codes));
            // The look-up ignores all bits above the lowest four.
            let value = _mm512_permutexvar_ps(_mm512_srlv_epi32(twice, shifts), table_register);
            _mm512_storeu_ps(values.as_mut_ptr(), _mm512_mul_ps(value, wide));
        }
    }
    plain(&bytes[whole * 8..], table, scale, &mut out[whole * 16..]);
}

/// Eight codes at a time, looked up in two registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(bytes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
    // SAFETY: sixteen values.
    let (low, high) = unsafe { (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table[8..].as_ptr())) };
    let wide = _mm256_set1_ps(scale);
    let shifts = _mm256_set_epi32(0, 4, 0, 4, 0, 4, 0, 4);
    let whole = out.len() / 8;
    for (codes, values) in bytes.chunks_exact(4).zip(out.chunks_exact_mut(8)) {
        let codes = _mm_cvtsi32_si128(i32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]));
        let codes = _mm256_srlv_epi32(_mm256_cvtepu8_epi32(_mm_unpacklo_epi8(codes, codes)), shifts);
        // The look-ups read the lowest three bits; the fourth, moved to the sign, chooses between them.
        let (a, b) = (
            _mm256_permutevar8x32_ps(low, codes),
            _mm256_permutevar8x32_ps(high, codes),
        );
        let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
        let value = _mm256_mul_ps(_mm256_blendv_ps(a, b, upper), wide);
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), value) };
    }
    plain(&bytes[whole * 4..], table, scale, &mut out[whole * 8..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_this_machine_gives_the_same_bits() {
        let table: [f32; 16] = std::array::from_fn(|i| (i as f32 - 7.3) * 0.37);
        let bytes: Vec<u8> = (0..70u32).map(|i| (i * 73 + 11) as u8).collect();
        for (start, len) in [(0, 139), (0, 32), (1, 40), (3, 1), (7, 77), (2, 0)] {
            let mut got = vec![0.0; len];
            nibbles(&bytes, start, &table, 0.7, &mut got);
            let code = |i: usize| (bytes[i / 2] >> if i.is_multiple_of(2) { 4 } else { 0 }) & 15;
            let want: Vec<f32> = (start..start + len)
                .map(|i| table[usize::from(code(i))] * 0.7)
                .collect();
            assert_eq!(got, want, "{start}+{len}");
            if start % 2 == 0 {
                plain(&bytes[start / 2..], &table, 0.7, &mut got);
                assert_eq!(got, want);
                #[cfg(target_arch = "x86_64")]
                if Isa::detect() != Isa::Base {
                    // SAFETY: `detect` saw AVX2 at least.
                    unsafe { avx2(&bytes[start / 2..][..len.div_ceil(2)], &table, 0.7, &mut got) };
                    assert_eq!(got, want);
                }
            }
        }
    }
}
