//! AdamW with moments in codes over many parameters in few launches: a cube for each block of 256 numbers, a word of four codes for
//! each unit.
use super::adamw::{ends, own};
use super::many::{groups, widest};
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

/// A parameter, its gradient, the codes and the scales of its moments.
pub(crate) type Row = [CubeTensor; 6];

/// The new parameters, codes and scales, in place where nothing else holds them. None is empty.
pub(crate) fn adamw_8bit(rows: Vec<(Row, AdamW8bitStep)>, maps: [CodeMap; 2]) -> Vec<[CubeTensor; 5]> {
    let Some(client) = rows.first().map(|(row, _)| row[0].client.clone()) else {
        return vec![];
    };
    let kind = |([param, grad, ..], step): &(Row, AdamW8bitStep)| (param.dtype, grad.dtype, *step);
    let groups = groups(&client, rows.iter().map(kind), 6);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|([param, grad, kept @ ..], step)| {
            let [code1, code2, absmax1, absmax2] = kept.map(own);
            ([own(param), grad, code1, code2, absmax1, absmax2], step)
        })
        .collect();
    for group in groups {
        launch(&rows, &group, maps);
    }
    let parts = |([param, _, kept @ ..], _): (Row, _)| {
        let [code1, code2, absmax1, absmax2] = kept;
        [param, code1, code2, absmax1, absmax2]
    };
    rows.into_iter().map(parts).collect()
}

/// One launch for the rows of these places, which are all of one kind.
fn launch(rows: &[(Row, AdamW8bitStep)], group: &[usize], maps: [CodeMap; 2]) {
    let (first, step) = &rows[group[0]];
    let (client, device) = (first[0].client.clone(), &first[0].device);
    let types = [element(&first[0]), element(&first[1])];
    let all: Vec<Row> = group.iter().map(|i| rows[*i].0.clone().map(into_contiguous)).collect();
    let numbers: Vec<usize> = all.iter().map(|row| row[0].shape().num_elements()).collect();
    let ends = ends(numbers.iter().map(|numbers| numbers.div_ceil(BLOCK)));
    let blocks = ends.last().copied().unwrap_or(0);
    let buffers = |which: usize| all.iter().map(move |row| row[which].clone());
    let dim = CubeDim::new_1d(UNITS as u32);
    let number = |x: f64| x as f32;
    // SAFETY: cubes beyond the last block end at once; codes and scales were counted when the operation was called, and numbers
    // beyond a parameter are neither read nor written.
    unsafe {
        adamw_8bit_step::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, blocks * UNITS, dim),
            dim,
            widest(&all.concat()),
            ends.into_iter().collect(),
            numbers.into_iter().collect(),
            buffers(0).map(CubeTensor::into_buffer_arg).collect(),
            buffers(1).map(CubeTensor::into_buffer_arg).collect(),
            buffers(2).map(CubeTensor::into_buffer_arg).collect(),
            buffers(3).map(CubeTensor::into_buffer_arg).collect(),
            buffers(4).map(CubeTensor::into_buffer_arg).collect(),
            buffers(5).map(CubeTensor::into_buffer_arg).collect(),
            tables(device, maps).into_buffer_arg(),
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
    ends: &Sequence<usize>,
    numbers: &Sequence<usize>,
    params: &mut Sequence<Box<[F]>>,
    grads: &Sequence<Box<[G]>>,
    codes1: &mut Sequence<Box<[u32]>>,
    codes2: &mut Sequence<Box<[u32]>>,
    scales1: &mut Sequence<Box<[f32]>>,
    scales2: &mut Sequence<Box<[f32]>>,
    tables: &[f32],
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
    let cube = CUBE_POS;
    if cube >= blocks {
        terminate!();
    }
    let count = params.len();
    let unit = UNIT_POS as usize;
    let mut first = Array::<f32>::new(WORD);
    let mut second = Array::<f32>::new(WORD);
    let mut most1 = 0.0f32;
    let mut most2 = 0.0f32;
    let mut start = 0usize.runtime();
    #[unroll]
    for i in 0..count {
        let end = ends[i];
        if cube >= start && cube < end {
            let block = cube - start;
            let word = block * UNITS + unit;
            let (old1, old2) = (codes1[i][word], codes2[i][word]);
            let (scale1, scale2) = (scales1[i][block], scales2[i][block]);
            let param = &mut params[i];
            let grad = &grads[i];
            #[unroll]
            for k in 0..WORD {
                let at = word * WORD + k;
                let shift = comptime!(8 * k as u32);
                let mut m = 0.0f32;
                let mut v = 0.0f32;
                if at < numbers[i] {
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
        }
        start = end;
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
    let mut start = 0usize.runtime();
    #[unroll]
    for i in 0..count {
        let end = ends[i];
        if cube >= start && cube < end {
            let block = cube - start;
            let code1 = &mut codes1[i];
            let code2 = &mut codes2[i];
            code1[block * UNITS + unit] = new1;
            code2[block * UNITS + unit] = new2;
            if unit == 0 {
                let scale1 = &mut scales1[i];
                let scale2 = &mut scales2[i];
                scale1[block] = most1;
                scale2[block] = most2;
            }
        }
        start = end;
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
