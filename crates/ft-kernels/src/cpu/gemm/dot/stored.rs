//! What the rows of W may be stored in, and how it is widened in registers.
use crate::cpu::gemm::transpose::Lanes;
#[cfg(target_arch = "x86_64")]
use crate::cpu::loads;
use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A stored number.
pub(super) trait Stored: Copy {
    /// Whether it is not f32.
    const NARROW: bool;
    fn to_f32(self) -> f32;
    /// 16 values from `from` on.
    ///
    /// # Safety
    /// 16 readable values; AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn pair8(from: *const Self) -> [__m256; 2];
    /// 32 values from `from` on.
    ///
    /// # Safety
    /// 32 readable values; AVX-512.
    #[cfg(target_arch = "x86_64")]
    unsafe fn pair16(from: *const Self) -> [__m512; 2];
}

macro_rules! floats {
    ($($float:ty: $narrow:literal),*) => {$(
        impl Stored for $float {
            const NARROW: bool = $narrow;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                Lanes::to_f32(self)
            }
            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn pair8(from: *const Self) -> [__m256; 2] {
                // SAFETY: the caller's promise.
                unsafe { [Self::load8(from), Self::load8(from.wrapping_add(8))] }
            }
            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn pair16(from: *const Self) -> [__m512; 2] {
                // SAFETY: the caller's promise.
                unsafe { [Self::load16(from), Self::load16(from.wrapping_add(16))] }
            }
        }
    )*};
}
floats!(f32: false, bf16: true, f16: true);

impl Stored for i8 {
    const NARROW: bool = true;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn pair8(from: *const Self) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = loads::bytes16(from);
            let wide = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            [wide(bytes), wide(_mm_unpackhi_epi64(bytes, bytes))]
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn pair16(from: *const Self) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let wide = |from| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(loads::bytes16(from)));
            [wide(from), wide(from.wrapping_add(16))]
        }
    }
}
