//! One query a sequence, as in decoding: keys are shared among cubes, however few heads and sequences there are (flash-decoding,
//! <https://pytorch.org/blog/flash-decoding/>).
//!
//! ```text
//! parts   a cube per key head and part of the keys, for all query heads that read them   -> Σ e·v, max, Σ e
//! join    a unit per query head and vector: parts in order                               -> out, lse
//! ```
//! A part is a fixed number of keys from the first on: what a sequence computes does not depend on how long others are. A single part is
//! the whole, and gives the output itself.
use super::sight::{Sight, Strides};
use super::{Attention, Columns, sight};
use crate::attention::Span;
use crate::cube::address_type;
use crate::cube::row::element;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// Keys of a part.
const PART: usize = 256;
/// Units of a cube, and keys that are looked at together.
const UNITS: usize = 128;
/// Query heads of a key head, at most: each has its sums in registers.
const GROUPS: usize = 8;
/// Below every score.
const LOWEST: f32 = -1.0e30;

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Split {
    /// Query heads of a key head.
    groups: usize,
    /// Vectors of a head.
    d: usize,
    /// Values of a vector.
    vector: usize,
    units: usize,
    /// Whether there is one part alone.
    alone: bool,
}

impl Attention {
    /// How one query's keys are shared, where there is one query and the kernel takes its heads.
    pub(super) fn split(&self) -> Option<Split> {
        let [_, s, t, hq, hkv, d] = self.sizes;
        let hardware = &self.client.properties().hardware;
        let split = Split {
            groups: hq / hkv,
            d: d / self.vector,
            vector: self.vector,
            units: UNITS.min(1 << hardware.max_units_per_cube.ilog2()),
            alone: t <= PART,
        };
        let memory = 4 * (split.groups * (2 * d + 2 * split.units) + 2);
        let fits = split.groups <= GROUPS && split.d <= split.units && memory <= hardware.max_shared_memory_size;
        (s == 1 && fits).then_some(split)
    }

    pub(super) fn by_parts(
        &self,
        split: Split,
        [q, k, v]: [&CubeTensor; 3],
        [out, lse]: [&CubeTensor; 2],
        span: Span,
        columns: Columns,
        scale: f64,
    ) {
        let [b, _, t, hq, hkv, d] = self.sizes;
        let (parts, rows) = (t.div_ceil(PART), b * hq);
        let kept = if split.alone { 1 } else { parts * rows };
        let sums = self.empty(q, [kept, d], DType::F32);
        let tops = self.empty(q, [kept, 2], DType::F32);
        let (dim, addresses) = (CubeDim::new_1d(split.units as u32), address_type([q, k, v, &sums]));
        // SAFETY: cubes beyond the last part and units beyond the last vector end at once; keys beyond the last are not read.
        unsafe {
            attention_parts::launch_unchecked(
                &self.client,
                calculate_cube_count_elemwise(&self.client, parts * b * hkv * split.units, dim),
                dim,
                addresses,
                self.vector,
                q.clone().into_buffer_arg(),
                k.clone().into_buffer_arg(),
                v.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                lse.clone().into_buffer_arg(),
                sums.clone().into_buffer_arg(),
                tops.clone().into_buffer_arg(),
                self.strides(q),
                self.strides(k),
                self.strides(v),
                sight(1, span, columns),
                t,
                parts,
                b * hkv,
                hq,
                scale as f32,
                split,
                element(q),
            );
            if split.alone {
                return;
            }
            let units = CubeDim::new(&self.client, rows * split.d);
            attention_join::launch_unchecked(
                &self.client,
                calculate_cube_count_elemwise(&self.client, rows * split.d, units),
                units,
                addresses,
                self.vector,
                sums.into_buffer_arg(),
                tops.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                lse.clone().into_buffer_arg(),
                rows,
                parts,
                split.d,
                element(q),
            );
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn attention_parts<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    lse: &mut [f32],
    sums: &mut [f32],
    tops: &mut [f32],
    q_at: &Strides,
    k_at: &Strides,
    v_at: &Strides,
    sight: &Sight,
    t: usize,
    parts: usize,
    pairs: usize,
    heads: usize,
    scale: f32,
    #[comptime] split: Split,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= parts * pairs {
        terminate!();
    }
    let (groups, d, units) = comptime!((split.groups, split.d, split.units));
    let (part, pair) = (CUBE_POS / pairs, CUBE_POS % pairs);
    let key_heads = heads / groups;
    let (batch, key_head) = (pair / key_heads, pair % key_heads);
    let unit = UNIT_POS as usize;

    let mut queries = Shared::<[f32]>::new_slice(comptime!(groups * d * split.vector));
    let mut sum = Shared::<[f32]>::new_slice(comptime!(groups * d * split.vector));
    let mut weight = Shared::<[f32]>::new_slice(comptime!(groups * units));
    let mut scratch = Shared::<[f32]>::new_slice(comptime!(groups * units));
    let mut ends = Shared::<[i32]>::new_slice(2usize);
    let mut at = unit;
    while at < comptime!(groups * d) {
        let (g, c) = (at / d, at % d);
        let vector = q[q_at.start(batch, key_head * groups + g) + c];
        #[unroll]
        for n in 0..split.vector {
            queries[at * split.vector + n] = f32::cast_from(vector.extract(n));
            sum[at * split.vector + n] = 0.0;
        }
        at += units;
    }
    if unit == 0 {
        ends[0] = sight.low(batch, 0usize);
        ends[1] = sight.high(batch, 0usize);
    }
    let low = workgroup_uniform_load(&ends[0]);
    let high = workgroup_uniform_load(&ends[1]);

    let mut top = Array::<f32>::new(groups);
    let mut total = Array::<f32>::new(groups);
    let mut held = Array::<Vector<f32, N>>::new(groups);
    #[unroll]
    for g in 0..groups {
        top[g] = LOWEST;
        total[g] = 0.0;
        held[g] = Vector::<f32, N>::new(0.0f32);
    }
    let splits = comptime!(units / d);
    let (turn, c) = (unit / d, unit % d);
    let (k_start, v_start) = (k_at.start(batch, key_head), v_at.start(batch, key_head));
    let mut start = part * PART;
    let stop = min(start + PART, t);
    while start < stop {
        // Whole groups of keys before the first that is seen, or behind the last, are passed over.
        let column = start as i32 - sight.prefix;
        if column < 0 || (column + comptime!(units as i32) > low && column <= high) {
            let key = start + unit;
            let mut dots = Array::<Vector<f32, N>>::new(groups);
            #[unroll]
            for g in 0..groups {
                dots[g] = Vector::<f32, N>::new(0.0f32);
            }
            let seen = key < stop && sight.sees(0usize, low, high, key);
            if seen {
                let row = k_start + key * k_at.seq;
                for at in 0..d {
                    let here = Vector::<f32, N>::cast_from(k[row + at]);
                    #[unroll]
                    for g in 0..groups {
                        let mut query = Vector::<f32, N>::new(0.0f32);
                        #[unroll]
                        for n in 0..split.vector {
                            query.insert(n, queries[(g * d + at) * split.vector + n]);
                        }
                        dots[g] += query * here;
                    }
                }
            }
            let mut scores = Array::<f32>::new(groups);
            #[unroll]
            for g in 0..groups {
                scores[g] = select(seen, dots[g].vector_sum() * scale, LOWEST);
                scratch[g * units + unit] = scores[g];
            }
            sync_cube();
            let mut half = (units / 2).runtime();
            while half > 0 {
                if unit < half {
                    #[unroll]
                    for g in 0..groups {
                        let (one, other) = (scratch[g * units + unit], scratch[g * units + unit + half]);
                        scratch[g * units + unit] = max(one, other);
                    }
                }
                sync_cube();
                half /= 2;
            }
            let mut fade = Array::<f32>::new(groups);
            #[unroll]
            for g in 0..groups {
                let higher = max(top[g], scratch[g * units]);
                fade[g] = (top[g] - higher).exp();
                top[g] = higher;
            }
            sync_cube();
            #[unroll]
            for g in 0..groups {
                let mut p = 0.0f32;
                if seen {
                    p = (scores[g] - top[g]).exp();
                }
                weight[g * units + unit] = p;
                scratch[g * units + unit] = p;
            }
            sync_cube();
            let mut half = (units / 2).runtime();
            while half > 0 {
                if unit < half {
                    #[unroll]
                    for g in 0..groups {
                        let other = scratch[g * units + unit + half];
                        scratch[g * units + unit] += other;
                    }
                }
                sync_cube();
                half /= 2;
            }
            #[unroll]
            for g in 0..groups {
                total[g] = total[g] * fade[g] + scratch[g * units];
                held[g] = held[g] * Vector::<f32, N>::new(fade[g]);
            }
            if turn < splits {
                let mut j = turn;
                while j < units && start + j < stop {
                    let value = Vector::<f32, N>::cast_from(v[v_start + (start + j) * v_at.seq + c]);
                    #[unroll]
                    for g in 0..groups {
                        held[g] += Vector::<f32, N>::new(weight[g * units + j]) * value;
                    }
                    j += splits;
                }
            }
            sync_cube();
        }
        start += units;
    }

    for other in 0..splits {
        if turn == other {
            #[unroll]
            for g in 0..groups {
                #[unroll]
                for n in 0..split.vector {
                    sum[(g * d + c) * split.vector + n] += held[g].extract(n);
                }
            }
        }
        sync_cube();
    }
    #[unroll]
    for g in 0..groups {
        let row = batch * heads + key_head * groups + g;
        let inverse = inverse(total[g]);
        if comptime!(split.alone) {
            if unit == 0 {
                lse[row] = logarithm(top[g], total[g]);
            }
            if unit < d {
                let mut vector = Vector::<F, N>::new(F::from_int(0));
                #[unroll]
                for n in 0..split.vector {
                    vector.insert(n, F::cast_from(sum[(g * d + unit) * split.vector + n] * inverse));
                }
                out[row * d + unit] = vector;
            }
        } else {
            let to = part * pairs * groups + row;
            if unit == 0 {
                tops[to * 2] = top[g];
                tops[to * 2 + 1] = total[g];
            }
            if unit < d {
                #[unroll]
                for n in 0..split.vector {
                    sums[(to * d + unit) * split.vector + n] = sum[(g * d + unit) * split.vector + n];
                }
            }
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn attention_join<F: Float, N: Size>(
    sums: &[f32],
    tops: &[f32],
    out: &mut [Vector<F, N>],
    lse: &mut [f32],
    rows: usize,
    parts: usize,
    #[comptime] d: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= rows * d {
        terminate!();
    }
    let vector = N::value().comptime();
    let (row, c) = (at / d, at % d);
    let mut top = LOWEST.runtime();
    for part in 0..parts {
        top = max(top, tops[(part * rows + row) * 2]);
    }
    let mut total = 0.0f32;
    let mut held = Array::<f32>::new(vector);
    #[unroll]
    for n in 0..vector {
        held[n] = 0.0;
    }
    for part in 0..parts {
        let from = part * rows + row;
        let share = (tops[from * 2] - top).exp();
        total += share * tops[from * 2 + 1];
        #[unroll]
        for n in 0..vector {
            held[n] += share * sums[(from * d + c) * vector + n];
        }
    }
    let inverse = inverse(total);
    if c == 0 {
        lse[row] = logarithm(top, total);
    }
    let mut value = Vector::<F, N>::new(F::from_int(0));
    #[unroll]
    for n in 0..vector {
        value.insert(n, F::cast_from(held[n] * inverse));
    }
    out[at] = value;
}

/// Where nothing is seen, 0.
#[cube]
fn inverse(total: f32) -> f32 {
    let mut inverse = 0.0f32;
    if total > 0.0 {
        inverse = 1.0 / total;
    }
    inverse
}

/// Where nothing is seen, 0.
#[cube]
fn logarithm(top: f32, total: f32) -> f32 {
    let mut log = 0.0f32;
    if total > 0.0 {
        log = top + total.ln();
    }
    log
}
