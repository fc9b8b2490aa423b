//! AdamW with moments in codes: a cube for each block of 256 numbers, a word of four codes for each unit.
use super::adamw::own;
use super::address_type;
use super::row::{element, largest};
use crate::adamw_8bit::{AdamW8bitStep, BLOCK, CodeMap};
use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::TensorData;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Codes of a word.
const WORD: usize = 4;
/// Units of a cube.
const UNITS: usize = BLOCK / WORD;
/// Numbers of a map in the tables: its values, then its middles.
const MAP: usize = 256 + 255;

/// The new parameter, codes and scales, in place where nothing else holds them.
pub(crate) fn adamw_8bit(
    param: CubeTensor,
    grad: CubeTensor,
    codes: [CubeTensor; 2],
    absmax: [CubeTensor; 2],
    maps: [CodeMap; 2],
    step: AdamW8bitStep,
) -> (CubeTensor, [CubeTensor; 2], [CubeTensor; 2]) {
    let (param, grad) = (own(param), into_contiguous(grad));
    let ([code1, code2], [absmax1, absmax2]) = (codes.map(own), absmax.map(own));
    let (client, numbers) = (param.client.clone(), param.shape().num_elements());
    let blocks = numbers.div_ceil(BLOCK);
    let dim = CubeDim::new_1d(UNITS as u32);
    let types = [element(&param), element(&grad)];
    let number = |x: f64| x as f32;
    // SAFETY: cubes beyond the last block end at once; codes and scales were counted when the operation was called, and numbers
    // beyond the parameter are neither read nor written.
    unsafe {
        adamw_8bit_step::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, blocks * UNITS, dim),
            dim,
            address_type([&param, &grad, &code1]),
            param.clone().into_buffer_arg(),
            grad.into_buffer_arg(),
            code1.clone().into_buffer_arg(),
            code2.clone().into_buffer_arg(),
            absmax1.clone().into_buffer_arg(),
            absmax2.clone().into_buffer_arg(),
            tables(&param.device, maps).into_buffer_arg(),
            numbers,
            blocks,
            number(step.beta1),
            number(1.0 - step.beta1),
            number(step.beta2),
            number(1.0 - step.beta2),
            number(step.step_size),
            number(step.eps),
            number(step.keep),
            u32::from(maps[0].zero),
            types,
        );
    }
    (param, [code1, code2], [absmax1, absmax2])
}

/// Both maps on a device, where they stay.
fn tables(device: &CubeDevice, maps: [CodeMap; 2]) -> CubeTensor {
    static TABLES: Mutex<Vec<(CubeDevice, [CodeMap; 2], CubeTensor)>> = Mutex::new(vec![]);
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |other: &[CodeMap; 2]| (0..2).all(|i| std::ptr::eq(other[i].values, maps[i].values));
    if let Some((.., table)) = tables.iter().find(|(other, of, _)| other == device && same(of)) {
        return table.clone();
    }
    let numbers: Vec<f32> = maps
        .iter()
        .flat_map(|map| map.values.iter().chain(map.middles))
        .copied()
        .collect();
    let count = numbers.len();
    let table = CubeBackend::float_from_data(TensorData::new(numbers, [count]), device);
    tables.push((device.clone(), maps, table.clone()));
    table
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn adamw_8bit_step<F: Float, G: Float>(
    param: &mut [F],
    grad: &[G],
    code1: &mut [u32],
    code2: &mut [u32],
    absmax1: &mut [f32],
    absmax2: &mut [f32],
    tables: &[f32],
    numbers: usize,
    blocks: usize,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    step_size: f32,
    eps: f32,
    keep: f32,
    zero1: u32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let block = CUBE_POS;
    if block >= blocks {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let word = block * UNITS + unit;
    let (old1, old2) = (code1[word], code2[word]);
    let (scale1, scale2) = (absmax1[block], absmax2[block]);
    let mut first = Array::<f32>::new(WORD);
    let mut second = Array::<f32>::new(WORD);
    let mut most1 = 0.0f32;
    let mut most2 = 0.0f32;
    #[unroll]
    for k in 0..WORD {
        let at = word * WORD + k;
        let shift = comptime!(8 * k as u32);
        let mut m = 0.0f32;
        let mut v = 0.0f32;
        if at < numbers {
            let g = f32::cast_from(grad[at]);
            if !(g.is_nan() || g.is_inf()) {
                m = beta1 * (tables[((old1 >> shift) & 255) as usize] * scale1) + rest1 * g;
                v = beta2 * (tables[MAP + ((old2 >> shift) & 255) as usize] * scale2) + rest2 * (g * g);
                let new = keep * (f32::cast_from(param[at]) - step_size * (m / (v.sqrt() + eps)));
                param[at] = F::cast_from(new);
            }
        }
        first[k] = m;
        second[k] = v;
        most1 = max(most1, m.abs());
        most2 = max(most2, v);
    }
    let mut scratch = Shared::<[f32]>::new_slice(UNITS);
    let most1 = largest(most1, &mut scratch, UNITS);
    let most2 = largest(most2, &mut scratch, UNITS);
    let mut new1 = 0u32;
    let mut new2 = 0u32;
    #[unroll]
    for k in 0..WORD {
        let shift = comptime!(8 * k as u32);
        let mut code = nearest(tables, 256usize, share(first[k], most1));
        // A code never has another sign than what it stands for.
        if code == zero1 && first[k] < 0.0 {
            code -= 1;
        }
        new1 |= code << shift;
        new2 |= nearest(tables, comptime!(MAP + 256), share(second[k], most2)) << shift;
    }
    code1[word] = new1;
    code2[word] = new2;
    if unit == 0 {
        absmax1[block] = most1;
        absmax2[block] = most2;
    }
}

/// A block of zeros has no scale.
#[cube]
fn share(value: f32, most: f32) -> f32 {
    let mut share = 0.0f32;
    if most > 0.0 {
        share = value / most;
    }
    share
}

/// The nearest code, by the middles that begin at `start`; the lower one half-way.
#[cube]
fn nearest(tables: &[f32], start: usize, value: f32) -> u32 {
    let mut code = 0u32;
    let mut step = 128u32.runtime();
    while step > 0 {
        if value > tables[start + (code + step - 1) as usize] {
            code += step;
        }
        step /= 2;
    }
    code
}
