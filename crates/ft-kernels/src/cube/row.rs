//! Rows shared among the units of a cube, and what they add up to.
use super::supported;
use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_elem_type;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::prelude::*;

/// Units that share a row, at most.
const UNITS: usize = 256;
/// Units that share a row, at least: no smaller group runs faster.
const FEWEST: usize = 32;

/// Whether the kernels have all these element types.
pub(crate) fn rows_fit<const N: usize>(tensors: [&CubeTensor; N]) -> bool {
    tensors.iter().all(|x| supported(x.dtype))
}

/// Whether there is nothing to compute.
pub(super) fn is_empty(x: &CubeTensor) -> bool {
    x.shape().num_elements() == 0
}

/// How rows `[rows, d]` are read and shared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) rows: usize,
    /// Values that are read at a time.
    pub(super) vector: usize,
    /// Vectors of a row.
    pub(super) width: usize,
    /// Units that share a row: a power of two.
    pub(super) units: usize,
}

impl Rows {
    /// The rows of `x`; `types` are those of all tensors that are read in such vectors.
    pub(super) fn of(x: &CubeTensor, types: &[DType]) -> Self {
        let shape = x.shape();
        let d = shape[shape.num_dims() - 1];
        let vector = vector(&x.client, types, d);
        let width = d / vector;
        let most = (x.client.properties().hardware.max_units_per_cube as usize).min(UNITS);
        let units = width.clamp(FEWEST, UNITS).next_power_of_two().min(1 << most.ilog2());
        Self {
            rows: shape.num_elements() / d,
            vector,
            width,
            units,
        }
    }

    /// The dimensions of a cube.
    pub(super) fn dim(&self) -> CubeDim {
        CubeDim::new_1d(self.units as u32)
    }

    /// Cubes for `n` rows or blocks of rows, one each; there may be a few more.
    pub(super) fn cubes(&self, client: &Client, n: usize) -> CubeCount {
        calculate_cube_count_elemwise(client, n * self.units, self.dim())
    }
}

/// The most values of all of the types that can be read at a time where rows have `d` of them.
pub(super) fn vector(client: &Client, types: &[DType], d: usize) -> usize {
    let size = types.iter().map(|dtype| dtype.size()).max().unwrap_or(4);
    let mut widths = client.io_optimized_vector_sizes(size);
    widths.find(|width| d.is_multiple_of(*width)).unwrap_or(1)
}

/// What kernels are compiled for.
pub(super) fn element(x: &CubeTensor) -> ElemType {
    dtype_to_elem_type(x.dtype)
}

/// The sum of one number of every unit. All units of the cube have to come here.
#[cube]
pub(super) fn total(number: f32, scratch: &mut Shared<[f32]>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube(); // The scratch may still be read.
    scratch[unit] = number;
    sync_cube();
    let mut half = (units / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = scratch[unit + half];
            scratch[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    scratch[0]
}

/// The largest number of all units. All units of the cube have to come here.
#[cube]
pub(super) fn largest(number: f32, scratch: &mut Shared<[f32]>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    scratch[unit] = number;
    sync_cube();
    let mut half = (units / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = scratch[unit + half];
            let own = scratch[unit];
            scratch[unit] = max(own, other);
        }
        sync_cube();
        half /= 2;
    }
    scratch[0]
}
