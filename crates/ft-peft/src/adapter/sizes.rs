//! Sizes that `adapter_config.json` claims, compared with the files beside it before memory is taken for them.

use std::path::Path;

use burn::tensor::TensorData;

use super::{CONFIG, ENCODER, TensorFile};
use crate::attach::{ModuleSpec, preview};
use crate::error::{Error, Result};
use crate::methods::{PeftConfig, PeftMethod};

/// Fails where sizes of `config` are not those of `file`, or come to far more than the folder holds. Tensors that differ by
/// less are left to be listed one by one.
pub(super) fn check(dir: &Path, file: &TensorFile, config: &PeftConfig, specs: &[ModuleSpec]) -> Result<()> {
    const SLACK: usize = 1 << 20;
    own_size(file, config.method())?;
    let claimed = preview(specs, config)?.parameters;
    let encoder = std::fs::metadata(dir.join(ENCODER)).map_or(0, |m| m.len() as usize / size_of::<f32>());
    let held = file.tensors.values().map(TensorData::num_elements).sum::<usize>() + encoder;
    if claimed <= 16 * held + SLACK {
        return Ok(());
    }
    let why = format!(
        "the sizes in it come to {claimed} parameters on this model, but the folder holds {held}; take all files from one \
         adapter, and the model that it was trained on"
    );
    Err(Error::Format {
        path: dir.join(CONFIG),
        why,
    })
}

/// See [`PeftMethod::size_in_file`].
fn own_size(file: &TensorFile, method: &dyn PeftMethod) -> Result<()> {
    let Some((key, size, end)) = method.size_in_file() else {
        return Ok(());
    };
    let sized: Vec<_> = file.tensors.iter().filter(|(name, _)| name.ends_with(end)).collect();
    let why = match sized.iter().find(|(_, data)| data.shape().first() != Some(&size)) {
        Some((name, data)) => format!(
            "{name} is {:?}, but {CONFIG} says {key} = {size}",
            data.shape().to_vec()
        ),
        None if sized.is_empty() => format!("{end}: missing from the file"),
        None => return Ok(()),
    };
    Err(Error::Format {
        path: file.path.clone(),
        why,
    })
}
