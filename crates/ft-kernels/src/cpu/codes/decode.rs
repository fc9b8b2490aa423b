//! Rectangles of a packed matrix as f32, exactly the values that the codes stand for.
use super::Coded;
use crate::cpu::isa::Isa;
use crate::packed::INVERSE_127;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

/// See [`Coded::rectangle`], which checks the bounds.
pub(super) fn rectangle(w: &Coded, rows: Range<usize>, cols: Range<usize>, stride: usize, out: &mut [f32]) {
    match Isa::detect() {
        // SAFETY: `detect` saw the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { rectangle_avx512(w, rows, cols, stride, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { rectangle_avx2(w, rows, cols, stride, out) },
        Isa::Base => each_run(w, rows, cols, stride, out, plain, signed),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn rectangle_avx512(w: &Coded, rows: Range<usize>, cols: Range<usize>, stride: usize, out: &mut [f32]) {
    each_run(w, rows, cols, stride, out, |b, t, s, o| avx512(b, t, s, o), signed);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn rectangle_avx2(w: &Coded, rows: Range<usize>, cols: Range<usize>, stride: usize, out: &mut [f32]) {
    each_run(w, rows, cols, stride, out, |b, t, s, o| avx2(b, t, s, o), signed);
}

/// Decodes run by run: values of one row that share a scale. Inlined into callers for each instruction set.
#[inline(always)]
fn each_run(
    w: &Coded,
    rows: Range<usize>,
    cols: Range<usize>,
    stride: usize,
    out: &mut [f32],
    four: impl Fn(&[u8], &[f32; 16], f32, &mut [f32]),
    eight: impl Fn(&[u8], f32, &mut [f32]),
) {
    let (block, table) = (w.form.block(), w.table());
    for (row, values) in rows.zip(out.chunks_mut(stride)) {
        let mut at = row * w.form.cols + cols.start;
        let mut rest = &mut values[..cols.len()];
        while !rest.is_empty() {
            let index = at / block;
            let len = ((index + 1) * block - at).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            let scale = w.scales[index - w.first];
            match table {
                Some(table) => {
                    // An odd start is the lower half of a byte.
                    let odd = at % 2;
                    if odd == 1 {
                        now[0] = table[usize::from(w.bytes[at / 2] & 15)] * scale;
                    }
                    let from = (at + odd) / 2;
                    let now = &mut now[odd..];
                    four(&w.bytes[from..from + now.len().div_ceil(2)], table, scale, now);
                }
                None => eight(&w.bytes[at..at + len], scale, now),
            }
            at += len;
            rest = later;
        }
    }
}

#[inline(always)]
fn signed(codes: &[u8], scale: f32, out: &mut [f32]) {
    for (value, code) in out.iter_mut().zip(codes) {
        *value = f32::from(*code as i8) * scale * INVERSE_127;
    }
}

/// `table[code] · scale`, two codes to a byte, the first in the upper half.
#[inline(always)]
pub(super) fn plain(bytes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
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
#[inline]
pub(super) fn avx512(bytes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
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
#[inline]
pub(super) fn avx2(bytes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
    let table_registers = halves(table);
    let wide = _mm256_set1_ps(scale);
    let shifts = _mm256_set_epi32(0, 4, 0, 4, 0, 4, 0, 4);
    let whole = out.len() / 8;
    for (codes, values) in bytes.chunks_exact(4).zip(out.chunks_exact_mut(8)) {
        let codes = _mm_cvtsi32_si128(i32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]));
        let codes = _mm256_srlv_epi32(_mm256_cvtepu8_epi32(_mm_unpacklo_epi8(codes, codes)), shifts);
        let value = _mm256_mul_ps(look_up8(codes, table_registers), wide);
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), value) };
    }
    plain(&bytes[whole * 4..], table, scale, &mut out[whole * 8..]);
}

/// A table of sixteen in two registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn halves(table: &[f32; 16]) -> [__m256; 2] {
    // SAFETY: sixteen values.
    unsafe { [_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table[8..].as_ptr())] }
}

/// Eight values by the lowest four bits of each code.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn look_up8(codes: __m256i, [low, high]: [__m256; 2]) -> __m256 {
    // The look-ups read the lowest three bits; the fourth, moved to the sign, chooses between them.
    let (a, b) = (
        _mm256_permutevar8x32_ps(low, codes),
        _mm256_permutevar8x32_ps(high, codes),
    );
    _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
}
