//! What kernels for graphics cards cost once: compiled programs, and which of several was fastest.

use std::path::Path;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Keeps both in a folder between runs, told apart by device and by version of CubeCL. A `cubecl.toml` that says where is followed; a
/// folder that cannot be written costs the time alone. To be called before anything is computed on a card; later it is left as it is.
pub fn keep_kernels(folder: &Path) {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Directory(folder.into());
    }
    CubeClRuntimeConfig::try_set(config);
}
