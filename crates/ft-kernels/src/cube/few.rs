//! Products of a few rows with a packed matrix, straight from the codes: decoding.
//!
//! ```text
//! one cube per row of the matrix:  unit 0: word 0, 64, ..   unit 1: word 1, 65, ..   unit 2: ..
//! each word is decoded once, for all rows of x; then the units' sums are added in a tree
//! ```
use super::address_type;
use super::coded::{Coded, Layout, Packed};
use crate::packed::{Form, ScaleCodes};
use crate::portable::with_last;
use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_elem_type;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// Units of a cube, at most.
const UNITS: u32 = 64;

/// x `[.., in]` -> `[.., out]`, summed in f32. What [`super::fits`] allows, and few rows: each is a sum in registers.
pub(crate) fn few(
    x: CubeTensor,
    words: CubeTensor,
    scales: CubeTensor,
    codes: ScaleCodes<CubeBackend>,
    form: Form,
) -> CubeTensor {
    let (client, dtype, shape) = (x.client.clone(), x.dtype, x.shape());
    let count = shape.num_elements() / form.cols;
    let shape = with_last(&shape, form.rows);
    let out = empty_device_contiguous_dtype(client.clone(), x.device.clone(), shape, dtype);
    let (x, packed) = (into_contiguous(x), Packed::new(words, scales, codes, &form));
    let units = UNITS.min(client.properties().hardware.max_units_per_cube);
    let dim = CubeDim::new_1d(1 << units.ilog2());
    let units = dim.num_elems() as usize;
    let width = width(
        &packed.layout,
        form.cols,
        client.io_optimized_vector_sizes(dtype.size()),
    );
    // SAFETY: cubes beyond the last row end at once, a row's units stay in its words and columns, and the buffers were compared
    // with the form when the operation was called.
    unsafe {
        few_rows::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, form.rows * units, dim),
            dim,
            address_type([&x, &packed.words, &packed.scales, &out]),
            width,
            packed.into_launch(),
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            form.rows,
            form.cols,
            count,
            units,
            dtype_to_elem_type(dtype),
        );
    }
    out
}

/// Values of x to read at a time: inside a word, under one scale.
fn width(layout: &Layout, cols: usize, mut widths: impl Iterator<Item = usize>) -> usize {
    let whole = |width: &usize| layout.per_word.is_multiple_of(*width) && layout.block.is_multiple_of(*width);
    let width = widths.find(whole).filter(|_| cols.is_multiple_of(layout.per_word));
    width.unwrap_or(1)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn few_rows<F: Float, N: Size>(
    coded: &Coded,
    x: &[Vector<F, N>],
    y: &mut [F],
    rows: usize,
    #[comptime] cols: usize,
    #[comptime] count: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let per_word = comptime!(coded.layout.per_word);
    let start = row * cols;
    let mut sums = Array::<f32>::new(count);
    #[unroll]
    for i in 0..count {
        sums[i] = 0.0;
    }

    let end = (start + cols).div_ceil(per_word);
    let mut word = start / per_word + unit;
    while word < end {
        add_word::<F, N>(coded, x, &mut sums, word, start, cols, count);
        word += units;
    }

    let mut shared = Shared::<[f32]>::new_slice(comptime!(count * units));
    #[unroll]
    for i in 0..count {
        shared[i * units + unit] = sums[i];
    }
    sync_cube();
    let mut half = (units / 2).runtime();
    while half > 0 {
        if unit < half {
            #[unroll]
            for i in 0..count {
                let other = shared[i * units + unit + half];
                shared[i * units + unit] += other;
            }
        }
        sync_cube();
        half /= 2;
    }
    if unit == 0 {
        #[unroll]
        for i in 0..count {
            y[i * rows + row] = F::cast_from(shared[i * units]);
        }
    }
}

/// Adds the products of the values in a word that belong to the row that begins at `start`.
#[cube]
fn add_word<F: Float, N: Size>(
    coded: &Coded,
    x: &[Vector<F, N>],
    sums: &mut Array<f32>,
    word: usize,
    start: usize,
    #[comptime] cols: usize,
    #[comptime] count: usize,
) {
    let per_word = comptime!(coded.layout.per_word);
    let width = N::value().comptime();
    let (codes, first, end) = (coded.word(word), word * per_word, start + cols);
    #[unroll]
    for group in 0..comptime!(per_word / width) {
        let at = first + group * width;
        // Only words at the ends of a row hold values of others, and none do where rows are whole words.
        if comptime!(cols % per_word == 0) || (at >= start && at < end) {
            let scale = coded.scale(at);
            let mut values = Array::<f32>::new(width);
            #[unroll]
            for k in 0..width {
                values[k] = coded.value(codes, comptime!((group * width + k) as u32), scale);
            }
            #[unroll]
            for i in 0..count {
                let x = x[(i * cols + at - start) / width];
                #[unroll]
                for k in 0..width {
                    sums[i] += values[k] * f32::cast_from(x.extract(k));
                }
            }
        }
    }
}
