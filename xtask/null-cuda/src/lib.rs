//! A CUDA driver without a card: `libcuda.so` with the entry points that CubeCL calls. Device memory is host memory that the
//! system commits when it is touched, copies copy, streams and events are done at once, and kernels are taken and not run. What a
//! program did is in a trace ([`trace`]); kernels are compiled for real, by NVIDIA's NVRTC, which needs no card.
//!
//! | variable | means |
//! |---|---|
//! | `NULL_CUDA_SM` | compute capability: 80, 90 (the default) or 100 |
//! | `NULL_CUDA_MEMORY` | device memory in GiB, 80 by default |
//! | `NULL_CUDA_TRACE` | file that the trace is appended to |
//! | `NULL_CUDA_PTX` | folder for the PTX of every kernel that was loaded, `NAME.ptx` |
//! | `NULL_CUDA_SOURCE` | folder for the source of every kernel, `NAME.cu`, where this library stands for NVRTC too |
//!
//! Under the name `libnvrtc.so` (by a link) it stands for NVRTC as well and compiles nothing: a program then runs in seconds, and the
//! sources may be compiled later, each once, by `compile` (`src/bin/compile.rs`).
//!
//! Signatures and constants are those of NVIDIA's `cuda.h`.

mod device;
mod kernels;
mod memory;
mod nvrtc;
mod streams;
mod trace;

use std::ffi::{c_char, c_int};

/// `CUresult`.
pub(crate) type Status = c_int;
pub(crate) const SUCCESS: Status = 0;
pub(crate) const INVALID_VALUE: Status = 1;
pub(crate) const OUT_OF_MEMORY: Status = 2;
pub(crate) const INVALID_DEVICE: Status = 101;

/// Writes a result through the pointer that the caller gave for it.
///
/// # Safety
///
/// `to` is null or valid for writes.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Status {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: not null, and valid by the caller's word.
    unsafe { to.write(value) };
    SUCCESS
}

fn name(status: Status) -> &'static [u8] {
    match status {
        SUCCESS => b"CUDA_SUCCESS\0",
        INVALID_VALUE => b"CUDA_ERROR_INVALID_VALUE\0",
        OUT_OF_MEMORY => b"CUDA_ERROR_OUT_OF_MEMORY\0",
        INVALID_DEVICE => b"CUDA_ERROR_INVALID_DEVICE\0",
        _ => b"CUDA_ERROR_UNKNOWN\0",
    }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(status: Status, to: *mut *const c_char) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, name(status).as_ptr().cast()) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(status: Status, to: *mut *const c_char) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, name(status).as_ptr().cast()) }
}
