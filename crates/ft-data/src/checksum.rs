//! A number that tells the samples of two runs apart.

use rayon::prelude::*;

use crate::cache::passing;
use crate::sample::{Preference, Sample};

/// CRC-32 of samples, and of them as a teacher with another tokenizer reads them: tokens and target marks.
pub fn checksum(samples: &[Sample]) -> u32 {
    const PART: usize = 4096;
    let parts: Vec<crc32fast::Hasher> = samples
        .par_chunks(PART)
        .map(|part| sequences_crc(part, false))
        .collect();
    let theirs = samples.par_chunks(PART).map(|part| sequences_crc(part, true));
    let taught = samples.iter().any(|sample| sample.teacher.is_some());
    let theirs: Vec<_> = if taught { theirs.collect() } else { Vec::new() };
    let mut crc = crc32fast::Hasher::new();
    parts.iter().chain(&theirs).for_each(|part| crc.combine(part));
    crc.finalize()
}

fn sequences_crc(samples: &[Sample], theirs: bool) -> crc32fast::Hasher {
    let (mut crc, mut bytes) = (crc32fast::Hasher::new(), Vec::new());
    let mut add = |sample: &Sample| {
        bytes.clear();
        bytes.extend((sample.len() as u64).to_le_bytes());
        for (id, learn) in sample.ids.iter().zip(sample.learn()) {
            let [a, b, c, d] = id.to_le_bytes();
            bytes.extend([a, b, c, d, u8::from(learn)]);
        }
        if let Preference::Rated(good) = sample.preference {
            bytes.push(u8::from(good));
        }
        bytes.extend(sample.label().into_iter().flat_map(f32::to_le_bytes));
        crc.update(&bytes);
    };
    for sample in passing(samples) {
        match theirs {
            true => sample.teacher.iter().for_each(|taught| add(&taught.sample)),
            false => sample.sequences().for_each(&mut add),
        }
    }
    crc
}
