//! Tells one base model from another without reading all of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::{Error, Result};

/// CRC-32 over `config.json` and, for every weight file in name order, its length, its first and its last megabyte; of a GGUF file over these
/// of its own.
pub(super) fn fingerprint(folder: &Path, weights: bool) -> Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    if ft_model::gguf::is_gguf(folder) {
        ends(folder, &mut crc).map_err(|e| Error::io(folder, e))?;
        return Ok(crc.finalize());
    }
    let mut add = |name: &str| {
        let path = folder.join(name);
        ends(&path, &mut crc).map_err(|e| Error::io(&path, e))
    };
    add("config.json")?;
    if weights {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|n| n.ends_with(".safetensors")).collect();
        names.sort();
        names.iter().try_for_each(|name| add(name))?;
    }
    Ok(crc.finalize())
}

/// [`fingerprint`] of a model folder with weights, and of a file beside it.
pub(crate) fn fingerprint_with(folder: &Path, beside: Option<&Path>) -> Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&fingerprint(folder, true)?.to_le_bytes());
    if let Some(path) = beside {
        ends(path, &mut crc).map_err(|e| Error::io(path, e))?;
    }
    Ok(crc.finalize())
}

fn ends(path: &Path, crc: &mut crc32fast::Hasher) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    crc.update(&length.to_le_bytes());
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(PIECE).read_to_end(&mut bytes)?;
    file.seek(SeekFrom::Start(length.saturating_sub(PIECE).max(bytes.len() as u64)))?;
    file.read_to_end(&mut bytes)?;
    crc.update(&bytes);
    Ok(())
}
