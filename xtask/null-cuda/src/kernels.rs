//! Modules and their functions: the PTX is kept, launches are recorded.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use crate::streams::pass;
use crate::trace::record;
use crate::{INVALID_VALUE, SUCCESS, Status, put};

static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("NULL_CUDA_PTX").map(PathBuf::from));

/// What a module's handle points to; never freed, as CubeCL never unloads.
struct Module {
    ptx: String,
}

/// What a function's handle points to.
struct Kernel {
    name: String,
}

/// # Safety
///
/// As in `cuda.h`; `image` is PTX with a zero at its end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(to: *mut *mut c_void, image: *const c_void) -> Status {
    if image.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: text with a zero at its end.
    let ptx = unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy().into_owned();
    // SAFETY: the caller's pointer.
    unsafe { put(to, Box::into_raw(Box::new(Module { ptx })).cast()) }
}

/// # Safety
///
/// As in `cuda.h`; `module` is from [`cuModuleLoadData`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(to: *mut *mut c_void, module: *mut c_void, name: *const c_char) -> Status {
    if module.is_null() || name.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: both as the caller says.
    let (module, name) = unsafe { (&*module.cast::<Module>(), CStr::from_ptr(name)) };
    let name = name.to_string_lossy().into_owned();
    record(
        "load",
        format_args!("\"kernel\":\"{name}\",\"ptx\":{}", module.ptx.len()),
    );
    if let Some(folder) = &*FOLDER {
        let path = folder.join(format!("{name}.ptx"));
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, &module.ptx));
        if let Err(e) = written {
            eprintln!("null-cuda: {}: {e}", path.display());
        }
    }
    // SAFETY: the caller's pointer.
    unsafe { put(to, Box::into_raw(Box::new(Kernel { name })).cast()) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(_module: *mut c_void) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(_function: *mut c_void, _attribute: c_int, _value: c_int) -> Status {
    SUCCESS
}

/// # Safety
///
/// As in `cuda.h`; `function` is from [`cuModuleGetFunction`].
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    _stream: *mut c_void,
    _params: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Status {
    let empty = [grid_x, grid_y, grid_z, block_x, block_y, block_z].contains(&0);
    if function.is_null() || empty || block_x * block_y * block_z > 1024 {
        return INVALID_VALUE;
    }
    let threads = [grid_x, grid_y, grid_z, block_x, block_y, block_z].map(u64::from);
    pass(threads.into_iter().fold(1, u64::saturating_mul));
    // SAFETY: as the caller says.
    let kernel = unsafe { &*function.cast::<Kernel>() };
    if kernel.name.contains("_throughput") {
        // CubeCL probes what a device can do by the host's clock, with as many rounds in one launch as take 10 ms.
        std::thread::sleep(Duration::from_millis(20));
    }
    record(
        "launch",
        format_args!(
            "\"kernel\":\"{}\",\"grid\":[{grid_x},{grid_y},{grid_z}],\"block\":[{block_x},{block_y},{block_z}],\"shared\":{shared}",
            kernel.name
        ),
    );
    SUCCESS
}

/// A descriptor of a tensor for the copy engine: 128 bytes that no kernel reads.
const MAP: [u8; 128] = [0; 128];

/// # Safety
///
/// As in `cuda.h`; the other arguments are not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(to: *mut [u8; 128]) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, MAP) }
}

/// # Safety
///
/// As in `cuda.h`; the other arguments are not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeIm2col(to: *mut [u8; 128]) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, MAP) }
}

/// # Safety
///
/// As in `cuda.h`; the other arguments are not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeIm2colWide(to: *mut [u8; 128]) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, MAP) }
}
