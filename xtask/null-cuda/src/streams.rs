//! Streams and events. Whatever is asked of them is done when they are asked; waiting for them is what the trace records. Events tell
//! a time that nothing took: see [`pass`].

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::trace::record;
use crate::{INVALID_VALUE, SUCCESS, Status, put};

/// Handles mean nothing, but they must not be null: that is the default stream.
const HANDLE: *mut c_void = std::ptr::without_provenance_mut(0x20);

/// Nanoseconds on the clock that events read.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// Lets a launch of so many threads take 2 µs and 10 ps for each: every run measures the same, and what times more launches, or larger
/// ones, sees that they take longer, without which CubeCL's probes would not end.
pub fn pass(threads: u64) {
    CLOCK.fetch_add(2_000 + threads / 100, Ordering::Relaxed);
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(to: *mut *mut c_void, _flags: c_uint) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, HANDLE) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(to: *mut *mut c_void, _flags: c_uint, _priority: c_int) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, HANDLE) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Status {
    // SAFETY: the caller's pointers.
    unsafe { put(least, 0) | put(greatest, 0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(_stream: *mut c_void) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(_stream: *mut c_void) -> Status {
    record("sync", format_args!("\"what\":\"stream\""));
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(_stream: *mut c_void, _event: *mut c_void, _flags: c_uint) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Status {
    record("sync", format_args!("\"what\":\"context\""));
    SUCCESS
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(to: *mut *mut AtomicU64, _flags: c_uint) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, Box::into_raw(Box::default())) }
}

/// # Safety
///
/// As in `cuda.h`; `event` is from [`cuEventCreate`], as in all functions below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: *mut AtomicU64) -> Status {
    if event.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: a box of ours, which nobody uses any more.
    drop(unsafe { Box::from_raw(event) });
    SUCCESS
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: *mut AtomicU64, _stream: *mut c_void) -> Status {
    // SAFETY: as the caller says.
    match unsafe { event.as_ref() } {
        None => INVALID_VALUE,
        Some(event) => {
            event.store(CLOCK.load(Ordering::Relaxed), Ordering::Relaxed);
            SUCCESS
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(_event: *mut AtomicU64) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(_event: *mut AtomicU64) -> Status {
    record("sync", format_args!("\"what\":\"event\""));
    SUCCESS
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(to: *mut f32, start: *mut AtomicU64, end: *mut AtomicU64) -> Status {
    // SAFETY: as the caller says.
    let (Some(start), Some(end)) = (unsafe { start.as_ref() }, unsafe { end.as_ref() }) else {
        return INVALID_VALUE;
    };
    let nanoseconds = end
        .load(Ordering::Relaxed)
        .saturating_sub(start.load(Ordering::Relaxed));
    // SAFETY: the caller's pointer.
    unsafe { put(to, nanoseconds as f32 / 1e6) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(to: *mut f32, start: *mut AtomicU64, end: *mut AtomicU64) -> Status {
    // SAFETY: as the caller says.
    unsafe { cuEventElapsedTime(to, start, end) }
}
