//! The side path of LoRA: a product of low rank, added to the output of the product beside it where that lies.
//!
//! ```text
//! y[i][j] += scale · t[i]·b[j]      a cube for each tile of y; t and b are so narrow that whole rows of them are in shared memory
//! ```
use super::adamw::own;
use super::address_type;
use super::attention::{Limits, dim};
use super::row::{element, is_empty, vector};
use super::tile::{Tile, dots, fill, inputs, scores};
use crate::portable::Val;
use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// What the inputs of a kernel are in tiles: [`Limits::largest`].
const KERNEL: [usize; 6] = [1, 1, 1, 0, 0, 0];

/// `base + scale·t·bᵀ`, in the place of base if nothing else holds it: base `[.., out]`, t `[.., r]`, b `[out, r]`, all of one type.
/// `None` if rows of t and b do not fit into shared memory.
pub(crate) fn add_low_rank(base: &CubeTensor, t: &CubeTensor, b: &CubeTensor, scale: f64) -> Option<AddLowRank> {
    let [out, rank] = b.shape().dims();
    let client = base.client.clone();
    let vector = vector(&client, &[base.dtype], rank).min(vector(&client, &[base.dtype], out));
    if !super::alike([base, t, b]) || rank == 0 {
        return None;
    }
    let tile = Limits::of(&client, base.dtype).largest(base.dtype.size(), vector, rank, KERNEL)?;
    Some(AddLowRank {
        tile,
        scale: scale as f32,
    })
}

/// A sum that the kernel takes.
pub(crate) struct AddLowRank {
    tile: Tile,
    scale: f32,
}

impl AddLowRank {
    pub(crate) fn launch(self, base: CubeTensor, t: CubeTensor, b: CubeTensor) -> CubeTensor {
        let Self { tile, scale } = self;
        let y = own(base);
        if is_empty(&y) {
            return y;
        }
        let (t, b) = (into_contiguous(Val::<CubeBackend>(t).rows().0), into_contiguous(b));
        let (client, [out, _]) = (y.client.clone(), b.shape().dims());
        let rows = y.shape().num_elements() / out;
        let cubes = rows.div_ceil(tile.rows) * out.div_ceil(tile.cols);
        let types = element(&y);
        // SAFETY: cubes beyond the last tile end at once; rows and columns beyond those of y are neither read nor written.
        unsafe {
            add_product::launch_unchecked(
                &client,
                calculate_cube_count_elemwise(&client, cubes * tile.units, dim(tile)),
                dim(tile),
                address_type([&y, &t, &b]),
                tile.vector,
                y.clone().into_buffer_arg(),
                t.into_buffer_arg(),
                b.into_buffer_arg(),
                rows,
                out,
                scale,
                tile,
                types,
            );
        }
        y
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn add_product<F: Float, N: Size>(
    y: &mut [Vector<F, N>],
    t: &[Vector<F, N>],
    b: &[Vector<F, N>],
    rows: usize,
    out: usize,
    scale: f32,
    #[comptime] tile: Tile,
    #[define(F)] _dtype: ElemType,
) {
    let across = out.div_ceil(tile.cols);
    let (i, j) = (CUBE_POS / across * tile.rows, CUBE_POS % across * tile.cols);
    if i >= rows {
        terminate!();
    }
    let mut left = inputs::<F, N>(tile.rows, tile);
    let mut right = inputs::<F, N>(tile.cols, tile);
    let mut product = scores(tile);
    fill::<F, N>(&mut left, t, 0usize, tile.d, i, rows, tile.rows, tile);
    fill::<F, N>(&mut right, b, 0usize, tile.d, j, out, tile.cols, tile);
    sync_cube();
    dots::<F, N>(&left, &right, &mut product, tile);
    sync_cube();
    let width = comptime!(tile.cols / tile.vector);
    let mut at = UNIT_POS as usize;
    while at < comptime!(tile.rows * width) {
        let (row, c) = (at / width, at % width);
        if i + row < rows && j + c * tile.vector < out {
            let place = ((i + row) * out + j) / tile.vector + c;
            let mut sum = Vector::<f32, N>::cast_from(y[place]);
            #[unroll]
            for k in 0..tile.vector {
                let added = product[row * comptime!(tile.score_pitch()) + c * tile.vector + k] * scale;
                sum.insert(k, sum.extract(k) + added);
            }
            y[place] = Vector::<F, N>::cast_from(sum);
        }
        at += tile.units;
    }
}
