use std::collections::HashMap;
use std::io;
use std::path::Path;

use safetensors::SafeTensorError;
use safetensors::tensor::View;

/// Writes a safetensors file as transformers and PEFT write theirs: marked as PyTorch's, and readable by others, which
/// the safetensors crate alone does not make it.
pub fn write_tensor_file(path: &Path, tensors: impl IntoIterator<Item = (String, impl View)>) -> io::Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| match e {
        SafeTensorError::IoError(source) => source,
        other => io::Error::other(other),
    })?;
    share(path)
}

#[cfg(unix)]
fn share(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn share(_: &Path) -> io::Result<()> {
    Ok(())
}
