//! The card that is pretended: its compute capability, its limits, its memory; and the one context on it.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::LazyLock;

use crate::{INVALID_DEVICE, INVALID_VALUE, SUCCESS, Status, put};

/// What the public data sheets and the CUDA programming guide's table of compute capabilities say.
pub struct Card {
    pub name: &'static str,
    pub capability: (c_int, c_int),
    /// Largest shared memory of a block, in bytes.
    pub shared: c_int,
    pub processors: c_int,
    pub memory: usize,
}

pub static CARD: LazyLock<Card> = LazyLock::new(|| {
    let number = |key: &str, default: usize| {
        let value = std::env::var(key).ok();
        value.map_or(default, |text| {
            text.parse().unwrap_or_else(|_| {
                eprintln!("null-cuda: {key}={text} is no number; {default} is taken");
                default
            })
        })
    };
    let (name, capability, shared, processors) = match number("NULL_CUDA_SM", 90) {
        80 => ("null sm_80", (8, 0), 163 << 10, 108),
        100 => ("null sm_100", (10, 0), 227 << 10, 148),
        sm => {
            if sm != 90 {
                eprintln!("null-cuda: NULL_CUDA_SM={sm} is not known; 90 is taken");
            }
            ("null sm_90", (9, 0), 227 << 10, 132)
        }
    };
    Card {
        name,
        capability,
        shared,
        processors,
        memory: number("NULL_CUDA_MEMORY", 80) << 30,
    }
});

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> Status {
    SUCCESS
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(to: *mut c_int) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, 13000) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(to: *mut c_int) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, 1) }
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(to: *mut c_int, index: c_int) -> Status {
    if index != 0 {
        return INVALID_DEVICE;
    }
    // SAFETY: the caller's pointer.
    unsafe { put(to, 0) }
}

/// # Safety
///
/// As in `cuda.h`: `to` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(to: *mut c_char, length: c_int, _device: c_int) -> Status {
    // SAFETY: as above.
    unsafe { text(to, length, CARD.name) }
}

/// # Safety
///
/// As in `cuda.h`: `to` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(to: *mut c_char, length: c_int, _device: c_int) -> Status {
    // SAFETY: as above.
    unsafe { text(to, length, "0000:00:00.0") }
}

/// # Safety
///
/// `to` is valid for writes of `length` bytes.
unsafe fn text(to: *mut c_char, length: c_int, text: &str) -> Status {
    if to.is_null() || text.len() >= length.max(0) as usize {
        return INVALID_VALUE;
    }
    // SAFETY: the text and the zero after it fit.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len());
        to.add(text.len()).write(0);
    }
    SUCCESS
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(to: *mut usize, _device: c_int) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, CARD.memory) }
}

/// # Safety
///
/// As in `cuda.h`. What is not listed is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(to: *mut c_int, attribute: c_uint, _device: c_int) -> Status {
    let value = match attribute {
        // Threads of a block, in all and by axis; blocks of a grid, by axis.
        1..=3 => 1024,
        4 => 64,
        5 => c_int::MAX,
        6 | 7 => 65535,
        // Shared memory of a block without asking; threads of a warp.
        8 => 48 << 10,
        10 => 32,
        16 => CARD.processors,
        75 => CARD.capability.0,
        76 => CARD.capability.1,
        // Shared memory of a block at most, and what the driver keeps of it; memory pools.
        97 => CARD.shared,
        111 => 1 << 10,
        115 => 1,
        _ => 0,
    };
    // SAFETY: the caller's pointer.
    unsafe { put(to, value) }
}

/// There is one context, and its handle means nothing.
const CONTEXT: *mut c_void = std::ptr::without_provenance_mut(0x10);

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(to: *mut *mut c_void, _device: c_int) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, CONTEXT) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(_context: *mut c_void) -> Status {
    SUCCESS
}

/// # Safety
///
/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(to: *mut *mut c_void) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, CONTEXT) }
}
