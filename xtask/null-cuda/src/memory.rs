//! Device memory as anonymous mappings of the host, which cost what was touched of them; and copies, which copy.

use std::collections::HashMap;
use std::ffi::{c_int, c_long, c_uchar, c_uint, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard};

use crate::device::CARD;
use crate::trace::record;
use crate::{INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, Status, put};

unsafe extern "C" {
    fn mmap(
        at: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: c_long,
    ) -> *mut c_void;
    fn munmap(at: *mut c_void, length: usize) -> c_int;
}

// Linux's numbers.
const READ_WRITE: c_int = 1 | 2;
const PRIVATE_ANONYMOUS_NORESERVE: c_int = 0x02 | 0x20 | 0x4000;
const FAILED: usize = usize::MAX;

/// What is allocated, by address.
#[derive(Default)]
struct Allocations {
    bytes: HashMap<usize, usize>,
    used: usize,
    peak: usize,
}

static DEVICE: LazyLock<Mutex<Allocations>> = LazyLock::new(Mutex::default);
static HOST: LazyLock<Mutex<Allocations>> = LazyLock::new(Mutex::default);

fn lock(of: &'static Mutex<Allocations>) -> MutexGuard<'static, Allocations> {
    of.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn map(of: &'static Mutex<Allocations>, op: &str, bytes: usize, limit: usize) -> Result<usize, Status> {
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let mut all = lock(of);
    if bytes > limit.saturating_sub(all.used) {
        return Err(OUT_OF_MEMORY);
    }
    // SAFETY: a new private mapping.
    let at = unsafe {
        mmap(
            std::ptr::null_mut(),
            bytes,
            READ_WRITE,
            PRIVATE_ANONYMOUS_NORESERVE,
            -1,
            0,
        )
    } as usize;
    if at == FAILED {
        return Err(OUT_OF_MEMORY);
    }
    all.bytes.insert(at, bytes);
    all.used += bytes;
    all.peak = all.peak.max(all.used);
    record(
        op,
        format_args!("\"bytes\":{bytes},\"used\":{},\"peak\":{}", all.used, all.peak),
    );
    Ok(at)
}

fn unmap(of: &'static Mutex<Allocations>, op: &str, at: usize) -> Status {
    let mut all = lock(of);
    let Some(bytes) = all.bytes.remove(&at) else {
        return INVALID_VALUE;
    };
    all.used -= bytes;
    record(
        op,
        format_args!("\"bytes\":{bytes},\"used\":{},\"peak\":{}", all.used, all.peak),
    );
    // SAFETY: a mapping of ours, of this length.
    match unsafe { munmap(at as *mut c_void, bytes) } {
        0 => SUCCESS,
        _ => INVALID_VALUE,
    }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(to: *mut u64, bytes: usize) -> Status {
    // SAFETY: the caller's pointer.
    map(&DEVICE, "alloc", bytes, CARD.memory).map_or_else(|e| e, |at| unsafe { put(to, at as u64) })
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(to: *mut u64, bytes: usize, _stream: *mut c_void) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { cuMemAlloc_v2(to, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(at: u64) -> Status {
    unmap(&DEVICE, "free", at as usize)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(at: u64, _stream: *mut c_void) -> Status {
    unmap(&DEVICE, "free", at as usize)
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(to: *mut *mut c_void, bytes: usize) -> Status {
    // SAFETY: the caller's pointer.
    map(&HOST, "alloc_host", bytes, usize::MAX).map_or_else(|e| e, |at| unsafe { put(to, at as *mut c_void) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(at: *mut c_void) -> Status {
    unmap(&HOST, "free_host", at as usize)
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    let used = lock(&DEVICE).used;
    // SAFETY: the caller's pointers.
    unsafe { put(free, CARD.memory - used) | put(total, CARD.memory) }
}

/// # Safety
///
/// Both are valid for `bytes`.
unsafe fn copy(op: &str, to: *mut c_uchar, from: *const c_uchar, bytes: usize) -> Status {
    if bytes > 0 && (to.is_null() || from.is_null()) {
        return INVALID_VALUE;
    }
    record(op, format_args!("\"bytes\":{bytes}"));
    for start in (0..bytes).step_by(PAGE) {
        let length = PAGE.min(bytes - start);
        // SAFETY: as the caller says.
        unsafe {
            let (to, from) = (to.add(start), from.add(start));
            if !(is_zero(from, length) && is_zero(to, length)) {
                std::ptr::copy(from, to, length);
            }
        }
    }
    SUCCESS
}

/// Copies go by so many bytes, so that zeros onto zeros, which is what memory holds that nothing was written to, commit nothing.
const PAGE: usize = 4096;

/// # Safety
///
/// `at` is valid for `length` bytes.
unsafe fn is_zero(at: *const c_uchar, length: usize) -> bool {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(at, length) }
        .iter()
        .all(|byte| *byte == 0)
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    _stream: *mut c_void,
) -> Status {
    // SAFETY: as the caller says.
    unsafe { copy("htod", to as *mut c_uchar, from.cast(), bytes) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    _stream: *mut c_void,
) -> Status {
    // SAFETY: as the caller says.
    unsafe { copy("dtoh", to.cast(), from as *const c_uchar, bytes) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: *mut c_void) -> Status {
    // SAFETY: as the caller says.
    unsafe { copy("dtod", to as *mut c_uchar, from as *const c_uchar, bytes) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(at: u64, value: c_uchar, bytes: usize, _stream: *mut c_void) -> Status {
    record("memset", format_args!("\"bytes\":{bytes}"));
    // SAFETY: as the caller says.
    unsafe { (at as *mut c_uchar).write_bytes(value, bytes) };
    SUCCESS
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
pub struct Rows {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
}

#[repr(C)]
struct Side {
    x: usize,
    y: usize,
    /// 1: host, 2: device.
    kind: c_uint,
    host: *mut c_uchar,
    device: u64,
    array: *mut c_void,
    pitch: usize,
}

impl Side {
    fn row(&self, row: usize) -> *mut c_uchar {
        let base = if self.kind == 1 {
            self.host
        } else {
            self.device as *mut c_uchar
        };
        base.wrapping_add((self.y + row) * self.pitch + self.x)
    }
}

/// # Safety
///
/// As in `cuda.h`; arrays are refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DAsync_v2(rows: *const Rows, _stream: *mut c_void) -> Status {
    // SAFETY: the caller's pointer.
    let Some(rows) = (unsafe { rows.as_ref() }) else {
        return INVALID_VALUE;
    };
    let op = match (rows.from.kind, rows.to.kind) {
        (1, 2) => "htod",
        (2, 1) => "dtoh",
        (2, 2) => "dtod",
        _ => return INVALID_VALUE,
    };
    record(
        op,
        format_args!("\"bytes\":{},\"rows\":{}", rows.width * rows.height, rows.height),
    );
    for row in 0..rows.height {
        // SAFETY: rows of `width` bytes, as the caller says.
        unsafe { std::ptr::copy(rows.from.row(row), rows.to.row(row), rows.width) };
    }
    SUCCESS
}
