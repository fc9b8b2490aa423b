//! The transposing copy of packing: rows that are contiguous in k become `[k][width]`.
use super::matrix::Store;
use crate::cpu::isa::{Isa, multiversion};
#[cfg(target_arch = "x86_64")]
use crate::cpu::loads;
use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A stored type that vector code can load.
pub(super) trait Lanes: Store {
    /// `out[k * width + r] = scale * values[k * stride + r]` for `r < rows`, zero for `rows <= r < width`.
    fn copy(values: &[Self], stride: usize, rows: usize, scale: f32, width: usize, out: &mut [f32]);
    fn to_f32(self) -> f32;
    /// # Safety
    /// 16 readable values, AVX-512.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load16(from: *const Self) -> __m512;
    /// # Safety
    /// 8 readable values, AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load8(from: *const Self) -> __m256;
}

multiversion! {
    fn copy_f32(values: &[f32], stride: usize, rows: usize, scale: f32, width: usize, out: &mut [f32]) {
        for (k, step) in out.chunks_exact_mut(width).enumerate() {
            let (real, rest) = step.split_at_mut(rows);
            // Arrays of 4: the length of a whole step would make this a call to memcpy per step.
            let (from, tail) = values[k * stride..][..rows].as_chunks::<4>();
            let (to, to_tail) = real.as_chunks_mut::<4>();
            to.iter_mut().zip(from).for_each(|(o, v)| *o = v.map(|v| v * scale));
            to_tail.iter_mut().zip(tail).for_each(|(o, v)| *o = v * scale);
            rest.fill(0.0);
        }
    }
    fn copy_bf16(values: &[bf16], stride: usize, rows: usize, scale: f32, width: usize, out: &mut [f32]) {
        for (k, step) in out.chunks_exact_mut(width).enumerate() {
            let (real, rest) = step.split_at_mut(rows);
            real.iter_mut().zip(&values[k * stride..][..rows]).for_each(|(o, v)| *o = Lanes::to_f32(*v) * scale);
            rest.fill(0.0);
        }
    }
}

impl Lanes for f32 {
    fn copy(values: &[f32], stride: usize, rows: usize, scale: f32, width: usize, out: &mut [f32]) {
        copy_f32(values, stride, rows, scale, width, out);
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { loads::f32x16(from) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { loads::f32x8(from) }
    }
}

impl Lanes for bf16 {
    fn copy(values: &[bf16], stride: usize, rows: usize, scale: f32, width: usize, out: &mut [f32]) {
        copy_bf16(values, stride, rows, scale, width, out);
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(from: *const bf16) -> __m512 {
        // SAFETY: the caller's promise. The bits of a bf16 are the upper half of those of an f32.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(loads::bytes32(from)))) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(from: *const bf16) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(loads::bytes16(from)))) }
    }
}

impl Lanes for f16 {
    fn copy(values: &[f16], stride: usize, rows: usize, scale: f32, width: usize, out: &mut [f32]) {
        for (k, step) in out.chunks_exact_mut(width).enumerate() {
            let (real, rest) = step.split_at_mut(rows);
            real.iter_mut()
                .zip(&values[k * stride..][..rows])
                .for_each(|(o, v)| *o = Lanes::to_f32(*v) * scale);
            rest.fill(0.0);
        }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(from: *const f16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(loads::bytes32(from)) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(from: *const f16) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(loads::bytes16(from)) }
    }
}

/// `out[k * width + r] = scale * from[r * stride + k]` for `r < rows`, `k < steps`; zero for `rows <= r < width`.
pub(super) fn into_panel<T: Lanes>(
    from: *const T,
    stride: usize,
    rows: usize,
    steps: usize,
    scale: f32,
    width: usize,
    out: &mut [f32],
) {
    let out = &mut out[..steps * width];
    // SAFETY: `Isa::detect` saw the instructions; the panel lies inside `out`, the rows inside the matrix.
    match Isa::detect() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(from, stride, rows, steps, scale, width, out) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(from, stride, rows, steps, scale, width, out) },
        Isa::Base => unsafe { plain(from, stride, 0..width, rows, 0..steps, scale, width, out) },
    }
}

/// One value at a time.
///
/// # Safety
/// As [`into_panel`], for the given rows and steps.
#[allow(clippy::too_many_arguments)]
unsafe fn plain<T: Lanes>(
    from: *const T,
    stride: usize,
    range: std::ops::Range<usize>,
    rows: usize,
    steps: std::ops::Range<usize>,
    scale: f32,
    width: usize,
    out: &mut [f32],
) {
    for k in steps {
        for r in range.clone() {
            // SAFETY: r < rows and k < steps.
            out[k * width + r] = if r < rows {
                scale * unsafe { *from.add(r * stride + k) }.to_f32()
            } else {
                0.0
            };
        }
    }
}

/// # Safety
/// As [`into_panel`]; AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn avx512<T: Lanes>(
    from: *const T,
    stride: usize,
    rows: usize,
    steps: usize,
    scale: f32,
    width: usize,
    out: &mut [f32],
) {
    let whole = steps / 16 * 16;
    for r0 in (0..width).step_by(16) {
        let real = rows.saturating_sub(r0).min(16);
        let mask = ((1u32 << (width - r0).min(16)) - 1) as __mmask16;
        for k0 in (0..whole).step_by(16) {
            let mut v = [_mm512_setzero_ps(); 16];
            for (r, lane) in v.iter_mut().enumerate().take(real) {
                // SAFETY: row r0 + r has values k0..k0 + 16.
                *lane = unsafe { T::load16(from.add((r0 + r) * stride + k0)) };
            }
            let v = transpose16(v);
            let scale = _mm512_set1_ps(scale);
            for (k, lane) in v.iter().enumerate() {
                // SAFETY: the masked lanes lie in step k0 + k of the panel.
                unsafe {
                    _mm512_mask_storeu_ps(
                        out.as_mut_ptr().add((k0 + k) * width + r0),
                        mask,
                        _mm512_mul_ps(*lane, scale),
                    )
                };
            }
        }
        // SAFETY: the rest of the same rows.
        unsafe {
            plain(
                from,
                stride,
                r0..(r0 + 16).min(width),
                rows,
                whole..steps,
                scale,
                width,
                out,
            )
        };
    }
}

/// Transposes a 16 x 16 block: pairs, quads, then 128-bit lanes twice.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose16(v: [__m512; 16]) -> [__m512; 16] {
    let mut t = v;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    let mut u = t;
    for i in 0..4 {
        let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]].map(|x| _mm512_castps_pd(x));
        u[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        u[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        u[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        u[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    // Lane l of u[4i + j] holds column 4l + j of rows 4i..4i + 4.
    let mut out = u;
    for j in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(u[j], u[4 + j]); // lanes 0, 2 of rows 0..4 and 4..8
        let high = _mm512_shuffle_f32x4::<0xdd>(u[j], u[4 + j]); // lanes 1, 3
        let low2 = _mm512_shuffle_f32x4::<0x88>(u[8 + j], u[12 + j]);
        let high2 = _mm512_shuffle_f32x4::<0xdd>(u[8 + j], u[12 + j]);
        out[j] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        out[4 + j] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        out[8 + j] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
        out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
    }
    out
}

/// # Safety
/// As [`into_panel`]; AVX2 and F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<T: Lanes>(
    from: *const T,
    stride: usize,
    rows: usize,
    steps: usize,
    scale: f32,
    width: usize,
    out: &mut [f32],
) {
    let whole = steps / 8 * 8;
    for r0 in (0..width).step_by(8) {
        let real = rows.saturating_sub(r0).min(8);
        let lanes = (width - r0).min(8);
        for k0 in (0..whole).step_by(8) {
            let mut v = [_mm256_setzero_ps(); 8];
            for (r, lane) in v.iter_mut().enumerate().take(real) {
                // SAFETY: row r0 + r has values k0..k0 + 8.
                *lane = unsafe { T::load8(from.add((r0 + r) * stride + k0)) };
            }
            let v = transpose8(v);
            for (k, lane) in v.iter().enumerate() {
                let (at, value) = ((k0 + k) * width + r0, _mm256_mul_ps(*lane, _mm256_set1_ps(scale)));
                // Where the panel is narrower than a vector, the next step is written over what this one writes too much.
                if lanes == 8 || (width < 8 && at + 8 <= out.len()) {
                    // SAFETY: 8 values from `at` lie inside the panel.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(at), value) };
                } else {
                    let mut step = [0.0f32; 8];
                    // SAFETY: `step` holds 8 values.
                    unsafe { _mm256_storeu_ps(step.as_mut_ptr(), value) };
                    out[at..][..lanes].copy_from_slice(&step[..lanes]);
                }
            }
        }
        // SAFETY: the rest of the same rows.
        unsafe { plain(from, stride, r0..r0 + lanes, rows, whole..steps, scale, width, out) };
    }
}

/// Transposes an 8 x 8 block.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn transpose8(v: [__m256; 8]) -> [__m256; 8] {
    let mut t = v;
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    let mut u = t;
    for i in 0..2 {
        let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
        u[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
        u[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
        u[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
        u[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
    }
    let mut out = u;
    for j in 0..4 {
        out[j] = _mm256_permute2f128_ps::<0x20>(u[j], u[4 + j]);
        out[4 + j] = _mm256_permute2f128_ps::<0x31>(u[j], u[4 + j]);
    }
    out
}
