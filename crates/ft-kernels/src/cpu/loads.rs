//! Loads of whole vectors. The plain intrinsics copy through memory with checks in builds with debug assertions, at several times
//! the cost of a product; these are one instruction in every build. Pointers are moved by `wrapping_add` for the same reason.
use std::arch::x86_64::*;

/// Eight values.
///
/// # Safety
/// AVX, eight readable values.
#[inline(always)]
pub(crate) unsafe fn f32x8(from: *const f32) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_castsi256_ps(_mm256_lddqu_si256(from.cast())) }
}

/// Sixteen values.
///
/// # Safety
/// AVX-512, sixteen readable values.
#[inline(always)]
pub(crate) unsafe fn f32x16(from: *const f32) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_maskz_loadu_ps(!0, from) }
}

/// Sixteen bytes.
///
/// # Safety
/// SSE3, sixteen readable bytes.
#[inline(always)]
pub(crate) unsafe fn bytes16<T>(from: *const T) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_lddqu_si128(from.cast()) }
}

/// Thirty-two bytes.
///
/// # Safety
/// AVX, thirty-two readable bytes.
#[inline(always)]
pub(crate) unsafe fn bytes32<T>(from: *const T) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_lddqu_si256(from.cast()) }
}

/// The sum of the lanes, in one order.
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) fn sum8(v: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
}
