//! What CUDA needs of the machine.

use std::path::PathBuf;

/// What is missing, one sentence each.
pub fn lacks() -> Vec<String> {
    ft_kernels::cuda_lacks(toolkit().as_deref())
}

/// Whether its cards can add up among themselves; says what that needs where they cannot.
pub fn sums() -> bool {
    let found = ft_kernels::has_nccl();
    if !found {
        tracing::warn!(
            "no NCCL (libnccl.so.2) here: gradients go through host memory; `pip install nvidia-nccl-cu13` (or -cu12) and put the folder that it \
             lies in on LD_LIBRARY_PATH"
        );
    }
    found
}

/// Where CubeCL looks for the toolkit.
fn toolkit() -> Option<PathBuf> {
    if let Some(typed) = std::env::var_os("CUDA_PATH") {
        return Some(typed.into());
    }
    let installed = ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from);
    let packaged = || {
        std::fs::exists("/usr/bin/nvcc")
            .is_ok_and(|there| there)
            .then(|| "/usr".into())
    };
    installed.into_iter().find(|path| path.exists()).or_else(packaged)
}
