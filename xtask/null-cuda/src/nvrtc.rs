//! NVRTC's functions, should this library be loaded in its place: they take every source, keep it where `NULL_CUDA_SOURCE` says, and
//! give back PTX that says nothing.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::{INVALID_VALUE, SUCCESS, Status, put};

static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("NULL_CUDA_SOURCE").map(PathBuf::from));

/// What every kernel is compiled to.
const PTX: &CStr = c"// compiled by null-cuda";

/// # Safety
///
/// As in `nvrtc.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCreateProgram(to: *mut *mut c_void, source: *const c_char) -> Status {
    if source.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: text with a zero at its end.
    let source = unsafe { CStr::from_ptr(source) }.to_string_lossy().into_owned();
    // SAFETY: the caller's pointer.
    unsafe { put(to, Box::into_raw(Box::new(source)).cast()) }
}

/// # Safety
///
/// As in `nvrtc.h`; `program` is from [`nvrtcCreateProgram`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCompileProgram(
    program: *mut c_void,
    _count: c_int,
    _options: *const *const c_char,
) -> Status {
    // SAFETY: as the caller says.
    let Some(source) = (unsafe { program.cast::<String>().as_ref() }) else {
        return INVALID_VALUE;
    };
    let Some(folder) = &*FOLDER else { return SUCCESS };
    let path = folder.join(format!("{}.cu", name(source)));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, source));
    match written {
        Ok(()) => SUCCESS,
        Err(e) => {
            eprintln!("null-cuda: {}: {e}", path.display());
            INVALID_VALUE
        }
    }
}

/// The function behind `__global__`.
fn name(source: &str) -> &str {
    let kernel = source.split("__global__").nth(1).unwrap_or_default();
    let before = kernel
        .split('(')
        .find(|part| !part.trim_end().ends_with("__launch_bounds__"))
        .unwrap_or_default();
    before
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .rfind(|word| !word.is_empty())
        .unwrap_or("kernel")
}

/// # Safety
///
/// As in `nvrtc.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetPTXSize(_program: *mut c_void, to: *mut usize) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { put(to, PTX.count_bytes() + 1) }
}

/// # Safety
///
/// As in `nvrtc.h`: `to` has the bytes that [`nvrtcGetPTXSize`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetPTX(_program: *mut c_void, to: *mut c_char) -> Status {
    // SAFETY: the caller's pointer.
    unsafe { std::ptr::copy_nonoverlapping(PTX.as_ptr(), to, PTX.count_bytes() + 1) };
    SUCCESS
}

/// # Safety
///
/// As in `nvrtc.h`; `program` is from [`nvrtcCreateProgram`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcDestroyProgram(program: *mut *mut c_void) -> Status {
    if program.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: a box of ours, which nobody uses any more.
    drop(unsafe { Box::from_raw((*program).cast::<String>()) });
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn the_kernel_is_found_behind_its_bounds() {
        assert_eq!(
            name("x(); extern \"C\" __global__ void __launch_bounds__(256) swiglu_f32_1(const int a"),
            "swiglu_f32_1"
        );
        assert_eq!(name("__global__ void fill(int a"), "fill");
    }
}
