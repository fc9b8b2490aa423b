//! Dot products of some rows of x with some rows of W, which are widened once for all of them.
//!
//! Each product has accumulators of its own and goes through k in steps of two vectors, so that its bits do not depend on how many
//! rows share a tile.
use super::stored::Stored;
use crate::cpu::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::loads;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows of W that are best taken together.
pub(super) const WIDE: usize = 4;
/// Rows of x that are best taken together: with two rows of W, accumulators, values and factors fit into sixteen registers.
pub(super) const HIGH: usize = 2;

/// `[r][c]` = x row r · w row c, for rows of `k` values.
///
/// # Safety
/// Each pointer has `k` readable values.
#[inline]
pub(super) unsafe fn tile<T: Stored, const R: usize, const C: usize>(
    xs: [*const f32; R],
    ws: [*const T; C],
    k: usize,
) -> [[f32; C]; R] {
    // SAFETY: the caller's promise; `detect` saw the instructions.
    unsafe {
        match Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(xs, ws, k),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(xs, ws, k),
            Isa::Base => portable(xs, ws, k),
        }
    }
}

/// The values of a row in f32.
///
/// # Safety
/// As many readable values as `out` has.
pub(super) unsafe fn widen<T: Stored>(from: *const T, out: &mut [f32]) {
    // SAFETY: the caller's promise; `detect` saw the instructions.
    let done = unsafe {
        match Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => widen_avx512(from, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => widen_avx2(from, out),
            Isa::Base => 0,
        }
    };
    for (i, value) in out.iter_mut().enumerate().skip(done) {
        // SAFETY: the caller's promise.
        *value = unsafe { *from.wrapping_add(i) }.to_f32();
    }
}

/// How many values it widened.
///
/// # Safety
/// As [`widen`]; AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn widen_avx512<T: Stored>(from: *const T, out: &mut [f32]) -> usize {
    let whole = out.len() / 32 * 32;
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        // SAFETY: 32 values from there on are inside both.
        unsafe {
            let [a, b] = T::pair16(from.wrapping_add(32 * i));
            _mm512_mask_storeu_ps(out.as_mut_ptr(), !0, a);
            _mm512_mask_storeu_ps(out.as_mut_ptr().wrapping_add(16), !0, b);
        }
    }
    whole
}

/// How many values it widened.
///
/// # Safety
/// As [`widen`]; AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen_avx2<T: Stored>(from: *const T, out: &mut [f32]) -> usize {
    let whole = out.len() / 16 * 16;
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        // SAFETY: 16 values from there on are inside both.
        unsafe {
            let [a, b] = T::pair8(from.wrapping_add(16 * i));
            _mm256_storeu_ps(out.as_mut_ptr(), a);
            _mm256_storeu_ps(out.as_mut_ptr().wrapping_add(8), b);
        }
    }
    whole
}

/// The products of the values from `from` on, one by one.
///
/// # Safety
/// Each pointer has `k` readable values.
#[inline(always)]
unsafe fn rest<T: Stored, const R: usize, const C: usize>(
    xs: [*const f32; R],
    ws: [*const T; C],
    from: usize,
    k: usize,
) -> [[f32; C]; R] {
    let mut sums = [[0.0; C]; R];
    for i in from..k {
        for (x, sums) in xs.iter().zip(&mut sums) {
            for (w, sum) in ws.iter().zip(sums) {
                // SAFETY: the caller's promise.
                *sum += unsafe { *x.wrapping_add(i) * (*w.wrapping_add(i)).to_f32() };
            }
        }
    }
    sums
}

/// Plain loops that the compiler turns into vector code for what it targets (SSE2, NEON).
///
/// # Safety
/// As [`tile`].
unsafe fn portable<T: Stored, const R: usize, const C: usize>(
    xs: [*const f32; R],
    ws: [*const T; C],
    k: usize,
) -> [[f32; C]; R] {
    const STEP: usize = 16;
    let whole = k / STEP * STEP;
    let mut acc = [[[0.0f32; STEP]; C]; R];
    for at in (0..whole).step_by(STEP) {
        for (c, w) in ws.iter().enumerate() {
            // SAFETY: STEP values from `at` on are inside the rows.
            let w: [f32; STEP] = std::array::from_fn(|i| unsafe { *w.wrapping_add(at + i) }.to_f32());
            for (x, acc) in xs.iter().zip(&mut acc) {
                for (i, (acc, w)) in acc[c].iter_mut().zip(w).enumerate() {
                    // SAFETY: as above.
                    *acc = add_product(unsafe { *x.wrapping_add(at + i) }, w, *acc);
                }
            }
        }
    }
    // SAFETY: the caller's promise.
    let mut sums = unsafe { rest(xs, ws, whole, k) };
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        sums.iter_mut()
            .zip(acc)
            .for_each(|(sum, acc)| *sum += acc.iter().sum::<f32>());
    }
    sums
}

/// `a · b + c`, fused where that is one instruction of the compile target.
#[inline(always)]
fn add_product(a: f32, b: f32, c: f32) -> f32 {
    match cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        true => a.mul_add(b, c),
        false => a * b + c,
    }
}

/// # Safety
/// As [`tile`]; AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn avx512<T: Stored, const R: usize, const C: usize>(
    xs: [*const f32; R],
    ws: [*const T; C],
    k: usize,
) -> [[f32; C]; R] {
    let mut acc = [[[_mm512_setzero_ps(); 2]; C]; R];
    let whole = k / 32 * 32;
    let mut at = 0;
    while at < whole {
        for (c, w) in ws.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(at + C * k).cast());
            // SAFETY: 32 values from `at` on are inside the rows.
            unsafe {
                let [a, b] = T::pair16(w.wrapping_add(at));
                for (x, acc) in xs.iter().zip(&mut acc) {
                    let x = x.wrapping_add(at);
                    acc[c][0] = _mm512_fmadd_ps(a, loads::f32x16(x), acc[c][0]);
                    acc[c][1] = _mm512_fmadd_ps(b, loads::f32x16(x.wrapping_add(16)), acc[c][1]);
                }
            }
        }
        at += 32;
    }
    // SAFETY: the caller's promise.
    let mut sums = unsafe { rest(xs, ws, whole, k) };
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        for (sum, [a, b]) in sums.iter_mut().zip(acc) {
            *sum += _mm512_reduce_add_ps(_mm512_add_ps(*a, *b));
        }
    }
    sums
}

/// # Safety
/// As [`tile`]; AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<T: Stored, const R: usize, const C: usize>(
    xs: [*const f32; R],
    ws: [*const T; C],
    k: usize,
) -> [[f32; C]; R] {
    let mut acc = [[[_mm256_setzero_ps(); 2]; C]; R];
    let whole = k / 16 * 16;
    let mut at = 0;
    while at < whole {
        for (c, w) in ws.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(at + C * k).cast());
            // SAFETY: 16 values from `at` on are inside the rows.
            unsafe {
                let [a, b] = T::pair8(w.wrapping_add(at));
                for (x, acc) in xs.iter().zip(&mut acc) {
                    let x = x.wrapping_add(at);
                    acc[c][0] = _mm256_fmadd_ps(a, loads::f32x8(x), acc[c][0]);
                    acc[c][1] = _mm256_fmadd_ps(b, loads::f32x8(x.wrapping_add(8)), acc[c][1]);
                }
            }
        }
        at += 16;
    }
    // SAFETY: the caller's promise.
    let mut sums = unsafe { rest(xs, ws, whole, k) };
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        for (sum, [a, b]) in sums.iter_mut().zip(acc) {
            *sum += loads::sum8(_mm256_add_ps(*a, *b));
        }
    }
    sums
}
