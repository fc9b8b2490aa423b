//! What graphics cards find out in a run, kept for the next: which kernel is fastest for a shape, and compiled kernels.
#[cfg(feature = "gpu")]
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};
#[cfg(feature = "gpu")]
use cubecl::records::RecordLevel;
use std::path::Path;

/// Keeps them in `folder`, which is made when there is something to keep; where it cannot be written, they are found out in every run, as
/// before. CubeCL knows them by its version and the device, so that another card or version finds its own.
///
/// For the start of a program: after the first use of a card nothing changes any more. What `cubecl.toml` and CubeCL's variables say
/// otherwise holds; `CUBECL_AUTOTUNE_CACHE=0` keeps nothing.
pub fn keep_tuned(folder: &Path) {
    #[cfg(feature = "gpu")]
    {
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        config.compilation.cache = !config.autotune.disable_cache;
        config.environment.path = CacheConfig::Directory(folder.to_path_buf());
        config.environment.records.level = RecordLevel::Off;
        CubeClRuntimeConfig::try_set(config);
    }
    #[cfg(not(feature = "gpu"))]
    let _ = folder;
}
