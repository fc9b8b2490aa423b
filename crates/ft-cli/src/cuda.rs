//! What CUDA needs of the machine.

use std::path::PathBuf;

/// What is missing, one sentence each.
pub fn lacks() -> Vec<String> {
    ft_kernels::cuda_lacks(toolkit().as_deref())
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
