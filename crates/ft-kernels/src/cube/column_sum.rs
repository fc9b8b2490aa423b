//! Sums over the columns of a matrix, in one order whatever runs first.
//!
//! ```text
//! a cube of 32 x 8 units adds 32 columns: unit (c, g) rows g, g + 8, ..; then the 8 sums of a column are added in order
//! ```
use super::address_type;
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// Columns of a cube.
const COLUMNS: usize = 32;
/// Units that share a column.
const GROUPS: usize = 8;

/// x `[rows, columns]` f32, contiguous -> the sums of the columns, in a shape of as many numbers.
pub(super) fn column_sum(x: CubeTensor, shape: Shape) -> CubeTensor {
    let [rows, columns] = x.shape().dims();
    let client = x.client.clone();
    let out = empty_device_contiguous_dtype(client.clone(), x.device.clone(), shape, DType::F32);
    let dim = CubeDim::new_1d((COLUMNS * GROUPS) as u32);
    let cubes = columns.div_ceil(COLUMNS);
    // SAFETY: units beyond the columns write nothing, and rows are counted.
    unsafe {
        add_columns::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, cubes * COLUMNS * GROUPS, dim),
            dim,
            address_type([&x, &out]),
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows,
            columns,
        );
    }
    out
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn add_columns(x: &[f32], out: &mut [f32], rows: usize, columns: usize) {
    let unit = UNIT_POS as usize;
    let column = CUBE_POS * COLUMNS + unit % COLUMNS;
    let mut sum = 0.0f32;
    if column < columns {
        let mut row = unit / COLUMNS;
        while row < rows {
            sum += x[row * columns + column];
            row += GROUPS;
        }
    }
    let mut shared = Shared::<[f32]>::new_slice(comptime!(COLUMNS * GROUPS));
    shared[unit] = sum;
    sync_cube();
    if unit < COLUMNS && column < columns {
        let mut sum = 0.0f32;
        #[unroll]
        for group in 0..GROUPS {
            sum += shared[group * COLUMNS + unit];
        }
        out[column] = sum;
    }
}
