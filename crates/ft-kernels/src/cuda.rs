//! What a machine needs beside this program to compute on CUDA.

use std::path::Path;

/// What this machine lacks, one sentence each: the driver, the compiler of kernels, its headers, which are looked for in the folder of
/// the toolkit.
pub fn cuda_lacks(toolkit: Option<&Path>) -> Vec<String> {
    // SAFETY: both calls only try to open libraries by NVIDIA's names.
    let [driver, compiler] = unsafe {
        [
            cudarc::driver::sys::is_culib_present(),
            cudarc::nvrtc::sys::is_culib_present(),
        ]
    };
    let mut lacks = Vec::new();
    if !driver {
        lacks.push("the NVIDIA driver (libcuda.so.1): `nvidia-smi` works where it is installed".into());
    }
    if !compiler {
        lacks.push(
            "NVRTC (libnvrtc.so), which compiles the kernels: install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc` and put the \
             folder that it lies in on LD_LIBRARY_PATH"
                .into(),
        );
    }
    let folder = toolkit.unwrap_or(Path::new("/usr/local/cuda"));
    if !folder.join("include/cuda_fp16.h").exists() {
        lacks.push(format!(
            "CUDA's headers ({}/include/cuda_fp16.h): install the CUDA toolkit, or `pip install nvidia-cuda-runtime \
             nvidia-cuda-cccl nvidia-cuda-crt`, and set CUDA_PATH to the folder with `include`",
            folder.display()
        ));
    }
    lacks
}

/// Whether NCCL is here, by which the cards of one process add up among themselves.
pub fn has_nccl() -> bool {
    // SAFETY: only tries to open a library by NVIDIA's name.
    unsafe { cudarc::nccl::sys::is_culib_present() }
}
