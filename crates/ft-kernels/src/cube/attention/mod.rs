//! Flash attention (<https://arxiv.org/abs/2205.14135>, backward as in <https://arxiv.org/abs/2307.08691>): tiles of scores live in
//! shared memory and nothing of queries times keys is written anywhere; scores, softmax and all sums are f32.
//!
//! ```text
//! forward    a cube per tile of queries: walks the tiles of keys that they see   -> out, lse
//!            one query: a cube per head and part of the keys, then one sum       -> out, lse
//! backward   a unit per query and head                                           -> (lse, dout·out)
//!            a cube per tile of queries: walks the tiles of keys                 -> dq
//!            a cube per tile of keys: walks the tiles of queries that see it     -> dk, dv      no atomics: one order of sums
//! ```
//! 16-bit inputs are multiplied by matrix units where a device has them for 16x16x16, with planes of 32 units; else, and f32, by
//! the units themselves. The two differ in [`super::tile`] alone.
mod forward;
mod keys;
mod parts;
mod queries;
mod sight;

use super::address_type;
use super::row::{element, is_empty, vector};
use super::tile::{PLANE, Tile};
use crate::attention::{First, Span};
use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, FloatDType, IntDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::ir::features::MmaConfig;
use cubecl::prelude::*;
use sight::{SightLaunch, StridesLaunch};

/// Units of a cube, at most.
const UNITS: usize = 256;
/// Queries and keys of a tile, from the most to the fewest.
const TILES: [(usize, usize); 7] = [(64, 64), (64, 32), (32, 32), (32, 16), (16, 16), (8, 8), (4, 4)];
/// What a kernel's inputs for queries and for keys, its scores, weights, and sums for queries and for keys are in tiles.
const FORWARD: [usize; 6] = [1, 1, 1, 1, 1, 0];
const QUERIES: [usize; 6] = [2, 2, 2, 1, 1, 0];
const KEYS: [usize; 6] = [2, 2, 2, 2, 0, 2];

/// A call whose tensors the kernels take.
pub(crate) struct Attention {
    client: Client,
    vector: usize,
    /// Batch, queries, keys, query heads, key heads, head dimension.
    sizes: [usize; 6],
    tiles: [Tile; 3],
}

impl Attention {
    /// `None` if a tensor, or a tile of the smallest size in the memory of this device, does not fit.
    pub(crate) fn of<const N: usize>(q: &CubeTensor, k: &CubeTensor, others: [&CubeTensor; N]) -> Option<Self> {
        let fits = super::alike([q, k]) && super::rows_fit(others);
        if !fits {
            return None;
        }
        let ([b, s, hq, d], [_, t, hkv, _]) = (q.shape().dims(), k.shape().dims());
        let client = q.client.clone();
        let vector = vector(&client, &[q.dtype], d);
        let limits = Limits::of(&client, q.dtype);
        let tile = |kernel| limits.largest(q.dtype.size(), vector, d, kernel);
        let tiles = [tile(FORWARD)?, tile(QUERIES)?, tile(KEYS)?];
        Some(Self {
            client,
            vector,
            sizes: [b, s, t, hq, hkv, d],
            tiles,
        })
    }

    /// The output `[b, s, hq, d]` and the logarithms `[b, s, hq]`.
    pub(crate) fn forward(
        &self,
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        first: First<CubeBackend>,
        span: Span,
        scale: f64,
    ) -> (CubeTensor, CubeTensor) {
        let [b, s, _, hq, hkv, d] = self.sizes;
        let ([q, k, v], first) = ([q, k, v].map(|x| self.in_rows(x)), Columns::of(first));
        let out = self.empty(&q, [b, s, hq, d], q.dtype);
        let lse = self.empty(&q, [b, s, hq], DType::F32);
        if is_empty(&q) {
            return (out, lse);
        }
        if let Some(split) = self.split() {
            self.by_parts(split, [&q, &k, &v], [&out, &lse], span, first, scale);
            return (out, lse);
        }
        let (tile, pairs, types) = (self.tiles[0], b * hq, element(&q));
        // SAFETY: cubes beyond the last tile end at once; queries and keys beyond the last are neither read nor written.
        unsafe {
            forward::attention_forward::launch_unchecked(
                &self.client,
                self.cubes(tile, s.div_ceil(tile.rows) * pairs),
                dim(tile),
                address_type([&q, &k, &v]),
                self.vector,
                q.clone().into_buffer_arg(),
                k.clone().into_buffer_arg(),
                v.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                lse.clone().into_buffer_arg(),
                self.strides(&q),
                self.strides(&k),
                self.strides(&v),
                sight(s, span, first),
                pairs,
                hq,
                hq / hkv,
                scale as f32,
                tile,
                types,
            );
        }
        (out, lse)
    }

    /// Gradients to q, k and v; inputs q, k, v, out, lse, dout.
    pub(crate) fn backward(
        &self,
        [q, k, v, out, lse, dout]: [CubeTensor; 6],
        first: First<CubeBackend>,
        span: Span,
        scale: f64,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [b, s, t, hq, hkv, d] = self.sizes;
        if is_empty(&q) {
            let zeros = |x: &CubeTensor| CubeBackend::float_zeros(x.shape(), &x.device, FloatDType::from(x.dtype));
            return (q, zeros(&k), zeros(&v));
        }
        let ([q, k, v], first) = ([q, k, v].map(|x| self.in_rows(x)), Columns::of(first));
        let [out, lse, dout] = [out, lse, dout].map(into_contiguous);
        let (types, groups, scale) = (element(&q), hq / hkv, scale as f32);
        let (dq, dk, dv) = (
            self.empty(&q, [b, s, hq, d], q.dtype),
            self.empty(&q, [b, t, hkv, d], q.dtype),
            self.empty(&q, [b, t, hkv, d], q.dtype),
        );
        let rows = self.empty(&q, [b, s, hq, 2], DType::F32);
        let addresses = address_type([&q, &k, &v, &dout, &dk]);
        let count = b * s * hq;
        let units = CubeDim::new(&self.client, count);
        // SAFETY: as above.
        unsafe {
            queries::attention_rows::launch_unchecked(
                &self.client,
                calculate_cube_count_elemwise(&self.client, count, units),
                units,
                addresses,
                self.vector,
                out.into_buffer_arg(),
                dout.clone().into_buffer_arg(),
                lse.into_buffer_arg(),
                rows.clone().into_buffer_arg(),
                count,
                d / self.vector,
                types,
            );
            let tile = self.tiles[1];
            queries::attention_queries::launch_unchecked(
                &self.client,
                self.cubes(tile, s.div_ceil(tile.rows) * b * hq),
                dim(tile),
                addresses,
                self.vector,
                q.clone().into_buffer_arg(),
                k.clone().into_buffer_arg(),
                v.clone().into_buffer_arg(),
                dout.clone().into_buffer_arg(),
                rows.clone().into_buffer_arg(),
                dq.clone().into_buffer_arg(),
                self.strides(&q),
                self.strides(&k),
                self.strides(&v),
                sight(s, span, first.clone()),
                b * hq,
                hq,
                groups,
                scale,
                tile,
                types,
            );
            let tile = self.tiles[2];
            keys::attention_keys::launch_unchecked(
                &self.client,
                self.cubes(tile, t.div_ceil(tile.cols) * b * hkv),
                dim(tile),
                addresses,
                self.vector,
                q.clone().into_buffer_arg(),
                k.clone().into_buffer_arg(),
                v.clone().into_buffer_arg(),
                dout.into_buffer_arg(),
                rows.into_buffer_arg(),
                dk.clone().into_buffer_arg(),
                dv.clone().into_buffer_arg(),
                self.strides(&q),
                self.strides(&k),
                self.strides(&v),
                sight(s, span, first),
                t,
                b * hkv,
                hq,
                groups,
                scale,
                tile,
                types,
            );
        }
        (dq, dk, dv)
    }

    fn empty<const D: usize>(&self, like: &CubeTensor, dims: [usize; D], dtype: DType) -> CubeTensor {
        empty_device_contiguous_dtype(self.client.clone(), like.device.clone(), Shape::new(dims), dtype)
    }

    fn cubes(&self, tile: Tile, n: usize) -> CubeCount {
        calculate_cube_count_elemwise(&self.client, n * tile.units, dim(tile))
    }

    /// Itself where heads are whole vectors, wherever their rows lie: a part of a cache is read in place.
    fn in_rows(&self, x: CubeTensor) -> CubeTensor {
        let (shape, strides) = (x.meta.shape(), x.meta.strides());
        let whole = |dim: usize| shape[dim] == 1 || strides[dim].is_multiple_of(self.vector);
        let in_rows = !x.meta.is_tiled() && (shape[3] == 1 || strides[3] == 1) && (0..3).all(whole);
        if in_rows { x } else { into_contiguous(x) }
    }

    fn strides(&self, x: &CubeTensor) -> StridesLaunch {
        let strides = x.meta.strides();
        StridesLaunch::new(
            strides[0] / self.vector,
            strides[1] / self.vector,
            strides[2] / self.vector,
        )
    }
}

pub(super) fn dim(tile: Tile) -> CubeDim {
    if tile.planes {
        CubeDim::new_2d(PLANE as u32, (tile.units / PLANE) as u32)
    } else {
        CubeDim::new_1d(tile.units as u32)
    }
}

/// The columns that a mask names.
#[derive(Clone)]
struct Columns {
    numbers: Option<CubeTensor>,
    /// Whether the last ones are there, too.
    both: bool,
}

impl Columns {
    fn of(first: First<CubeBackend>) -> Self {
        let both = matches!(first, First::Between(_));
        let numbers = match first {
            First::Start => None,
            First::At(columns) | First::Between(columns) => {
                Some(into_contiguous(CubeBackend::int_cast(columns, IntDType::I32)))
            }
        };
        Self { numbers, both }
    }
}

fn sight(s: usize, span: Span, columns: Columns) -> SightLaunch {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    SightLaunch::new(
        s,
        number(span.prefix),
        number(span.offset),
        span.window.map_or(i32::MAX, number),
        columns.numbers.map(CubeTensor::into_buffer_arg).into(),
        columns.both,
    )
}

/// What of a device decides how large tiles are.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of shared memory.
    memory: usize,
    units: usize,
    planes: bool,
}

impl Limits {
    pub(super) fn of(client: &Client, dtype: DType) -> Self {
        let hardware = &client.properties().hardware;
        Self {
            memory: hardware.max_shared_memory_size,
            units: hardware.max_units_per_cube as usize,
            planes: multiplies(client, dtype),
        }
    }

    /// The largest tile of a kernel that leaves room for a second cube, or the largest at all where memory is small.
    pub(super) fn largest(self, size: usize, vector: usize, d: usize, kernel: [usize; 6]) -> Option<Tile> {
        let room = if self.memory >= 96 << 10 {
            self.memory / 2
        } else {
            self.memory
        };
        let planes = self.planes && d.is_multiple_of(16) && 16usize.is_multiple_of(vector);
        let most = UNITS.min(1 << self.units.ilog2());
        let [inputs @ .., row_sums, col_sums] = kernel;
        let tile = |(rows, cols): (usize, usize)| Tile {
            rows,
            cols,
            d: d / vector,
            vector,
            size,
            units: if rows * cols >= 2048 { most } else { most.min(128) },
            planes,
        };
        let tiles = || TILES.into_iter().map(tile).filter(|tile| !planes || tile.cols >= 16);
        let bytes = |tile: &Tile| tile.bytes(inputs, row_sums * tile.rows + col_sums * tile.cols);
        let within = |memory: usize| tiles().find(|tile| bytes(tile) <= memory);
        within(room).or_else(|| within(self.memory))
    }
}

/// Whether planes of this device multiply tiles of 16 by 16 values of this type.
fn multiplies(client: &Client, dtype: DType) -> bool {
    let properties = client.properties();
    let hardware = &properties.hardware;
    let plane = PLANE as u32;
    let config = MmaConfig {
        a_type: dtype_to_elem_type(dtype),
        b_type: dtype_to_elem_type(dtype),
        cd_type: dtype_to_elem_type(DType::F32),
        m: 16,
        n: 16,
        k: 16,
    };
    dtype.size() == 2
        && (hardware.plane_size_min, hardware.plane_size_max) == (plane, plane)
        && properties.features.matmul.cmma.contains(&config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an H100, a card's Vulkan driver, and a software device: heads up to 256 wide have tiles everywhere.
    #[test]
    fn tiles_fit_into_memory() {
        for (memory, planes) in [
            (227 << 10, true),
            (163 << 10, true),
            (99 << 10, true),
            (48 << 10, false),
            (32 << 10, false),
        ] {
            for (size, vector) in [(4, 4), (2, 8), (2, 4), (2, 1)] {
                let limits = Limits {
                    memory,
                    units: 1024,
                    planes: planes && size == 2,
                };
                for d in [64, 80, 96, 128, 192, 256] {
                    for kernel in [FORWARD, QUERIES, KEYS] {
                        let tile = limits.largest(size, vector, d, kernel).expect("some tile");
                        let [inputs @ .., rows, cols] = kernel;
                        assert!(tile.bytes(inputs, rows * tile.rows + cols * tile.cols) <= memory);
                        assert!(tile.units.is_multiple_of(tile.rows) && (!tile.planes || tile.cols >= 16));
                        assert!(
                            memory < 200 << 10 || d > 128 || size == 4 || tile.rows >= 32,
                            "{tile:?}"
                        );
                    }
                }
            }
        }
    }
}
