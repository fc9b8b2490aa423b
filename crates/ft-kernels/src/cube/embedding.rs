//! The gradient to a table of embeddings: a cube for each position and each stretch of columns.
//!
//! ```text
//! dE[t] = Σ dy[p] over the positions p of token t      by the cube of the first of them, in their order; other cubes end
//! ```
//! A cube looks at as many ids at a time as it has units, and lists those that are its own in shared memory.
use super::address_type;
use super::row::{element, is_empty, vector};
use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{FloatDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// Units of a cube, at most.
const UNITS: u32 = 256;

/// dy `[n, d]`, ids `[n]` -> `[rows, d]` in the type of dy. What [`super::rows_fit`] allows.
pub(crate) fn embedding_gradient(dy: CubeTensor, ids: CubeTensor, rows: usize) -> CubeTensor {
    let [n, d] = dy.shape().dims();
    let dtype = FloatDType::from(dy.dtype);
    let out = into_contiguous(CubeBackend::float_zeros(Shape::new([rows, d]), &dy.device, dtype));
    if is_empty(&dy) {
        return out;
    }
    let (dy, ids) = (into_contiguous(dy), into_contiguous(ids));
    let client = dy.client.clone();
    let most = client.properties().hardware.max_units_per_cube.min(UNITS);
    let dim = CubeDim::new_1d(1 << most.ilog2());
    let units = dim.num_elems() as usize;
    let vector = vector(&client, &[dy.dtype], d);
    let width = d / vector;
    let stretches = width.div_ceil(units);
    let types = [element(&dy), dtype_to_elem_type(ids.dtype)];
    // SAFETY: cubes beyond the last position end at once, and so do those of ids that the table does not have; positions and
    // columns are counted.
    unsafe {
        add_rows::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, n * stretches * units, dim),
            dim,
            address_type([&dy, &ids, &out]),
            vector,
            dy.into_buffer_arg(),
            ids.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            n,
            rows,
            width,
            stretches,
            units,
            types,
        );
    }
    out
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn add_rows<F: Float, I: Int, N: Size>(
    dy: &[Vector<F, N>],
    ids: &[I],
    out: &mut [Vector<F, N>],
    n: usize,
    rows: usize,
    width: usize,
    stretches: usize,
    #[comptime] units: usize,
    #[define(F, I)] _types: [ElemType; 2],
) {
    let (position, stretch) = (CUBE_POS / stretches, CUBE_POS % stretches);
    if position >= n {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let id = ids[position];
    let row = usize::cast_from(id);
    let mut places = Shared::<[u32]>::new_slice(units);

    let mut before = 0u32;
    let mut at = unit;
    while at < position {
        if ids[at] == id {
            before += 1;
        }
        at += units;
    }
    let earlier = running(before, &mut places, units);
    let earlier = earlier.1;

    if earlier == 0 && row < rows {
        let column = stretch * units + unit;
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut start = position;
        while start < n {
            let mine = start + unit;
            let mut found = 0u32;
            if mine < n {
                if ids[mine] == id {
                    found += 1;
                }
            }
            let (until, count) = running(found, &mut places, units);
            if found == 1 {
                places[until as usize - 1] = mine as u32;
            }
            sync_cube();
            if column < width {
                for i in 0..count as usize {
                    sum += Vector::<f32, N>::cast_from(dy[places[i] as usize * width + column]);
                }
            }
            start += units;
        }
        if column < width {
            out[row * width + column] = Vector::<F, N>::cast_from(sum);
        }
    }
}

/// The sum of the numbers of all units up to this one, and of all. All units of the cube have to come here; the scratch may be
/// written when they return.
#[cube]
fn running(number: u32, scratch: &mut Shared<[u32]>, #[comptime] units: usize) -> (u32, u32) {
    let unit = UNIT_POS as usize;
    sync_cube(); // The scratch may still be read.
    scratch[unit] = number;
    sync_cube();
    let mut sum = number;
    let mut by = 1usize.runtime();
    while by < units {
        let mut lower = 0u32;
        if unit >= by {
            lower = scratch[unit - by];
        }
        sync_cube();
        sum += lower;
        scratch[unit] = sum;
        sync_cube();
        by *= 2;
    }
    let all = scratch[comptime!(units - 1)];
    sync_cube();
    (sum, all)
}
