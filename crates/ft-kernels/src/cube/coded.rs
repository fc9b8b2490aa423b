//! A packed matrix inside kernels.
use crate::packed::{Codes, Form, INVERSE_127, ScaleCodes};
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{IntDType, TensorData};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::prelude::*;
use std::sync::{Mutex, PoisonError};

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    /// Codes in a word: eight of 4 bits or four of 8 bits.
    pub(super) per_word: usize,
    /// Consecutive values that share a scale.
    pub(super) block: usize,
    /// Consecutive codes of scales that share a scale; 1 where scales are plain.
    pub(super) scale_block: usize,
}

/// The buffers of a packed matrix.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Coded {
    words: Box<[u32]>,
    scales: Box<[f32]>,
    scale_codes: ComptimeOption<Box<[u32]>>,
    /// What 4-bit codes stand for (16), then what the codes of the scales stand for (256).
    tables: Box<[f32]>,
    /// Added to scales that are codes.
    offset: f32,
    #[cube(comptime)]
    pub(super) layout: Layout,
}

#[cube]
impl Coded {
    /// Word `at` of the codes.
    pub(super) fn word(&self, at: usize) -> u32 {
        self.words[at]
    }

    /// The scale of value `index` of the flattened matrix.
    pub(super) fn scale(&self, index: usize) -> f32 {
        let at = index / comptime!(self.layout.block);
        #[comptime]
        match &self.scale_codes {
            ComptimeOption::Some(codes) => {
                let code = field(codes[at / 4], (at % 4) as u32 * 8, 255u32);
                self.tables[16 + code as usize] * self.scales[at / comptime!(self.layout.scale_block)] + self.offset
            }
            ComptimeOption::None => self.scales[at],
        }
    }

    /// What field `place` of a word stands for under a scale.
    pub(super) fn value(&self, word: u32, place: u32, scale: f32) -> f32 {
        if comptime!(self.layout.per_word == 8) {
            // The upper half of a byte comes first.
            self.tables[field(word, (place ^ 1) * 4, 15u32) as usize] * scale
        } else {
            let code = field(word, place * 8, 255u32) as i32;
            let signed = select(code < 128, code, code - 256);
            signed as f32 * scale * INVERSE_127
        }
    }
}

#[cube]
fn field(word: u32, shift: u32, #[comptime] mask: u32) -> u32 {
    (word >> shift) & mask
}

/// A packed matrix on the device, ready for launches.
pub(super) struct Packed {
    pub(super) words: CubeTensor,
    pub(super) scales: CubeTensor,
    codes: Option<CubeTensor>,
    tables: CubeTensor,
    offset: f32,
    pub(super) layout: Layout,
}

impl Packed {
    pub(super) fn new(words: CubeTensor, scales: CubeTensor, codes: ScaleCodes<CubeBackend>, form: &Form) -> Self {
        let unsigned = |words| into_contiguous(CubeBackend::int_cast(words, IntDType::U32));
        let codes = match codes {
            ScaleCodes::Absent => None,
            ScaleCodes::Words(codes) => Some(unsigned(codes)),
        };
        let (per_word, table) = match form.codes {
            Codes::Four { table, .. } => (8, table),
            Codes::Eight => (4, &[0.0; 16]),
        };
        Self {
            words: unsigned(words),
            tables: tables(&scales.device, table, form.nested.map(|nested| nested.map)),
            scales: into_contiguous(scales),
            codes,
            offset: form.nested.map_or(0.0, |nested| nested.offset),
            layout: Layout {
                per_word,
                block: form.block(),
                scale_block: form.nested.map_or(1, |nested| nested.block),
            },
        }
    }

    pub(super) fn into_launch(self) -> CodedLaunch {
        CodedLaunch::new(
            self.words.into_buffer_arg(),
            self.scales.into_buffer_arg(),
            self.codes.map(CubeTensor::into_buffer_arg).into(),
            self.tables.into_buffer_arg(),
            self.offset,
            self.layout,
        )
    }
}

/// What codes stand for.
type Values = (&'static [f32; 16], Option<&'static [f32; 256]>);

/// Both tables on a device, where they stay.
fn tables(device: &CubeDevice, table: &'static [f32; 16], map: Option<&'static [f32; 256]>) -> CubeTensor {
    static TABLES: Mutex<Vec<(CubeDevice, Values, CubeTensor)>> = Mutex::new(vec![]);
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |(first, second): &Values| {
        std::ptr::eq(*first, table) && second.map(std::ptr::from_ref) == map.map(std::ptr::from_ref)
    };
    if let Some((.., values)) = tables.iter().find(|(other, of, _)| other == device && same(of)) {
        return values.clone();
    }
    let numbers = [table.as_slice(), map.map_or(&[], |map| map.as_slice())].concat();
    let count = numbers.len();
    let values = CubeBackend::float_from_data(TensorData::new(numbers, [count]), device);
    tables.push((device.clone(), (table, map), values.clone()));
    values
}
