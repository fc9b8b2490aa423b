//! The output, and one logarithm per query and head: a cube for each tile of queries of a head.
use super::sight::{Sight, Strides};
use crate::cube::tile::{Tile, combine, dots, fill, inputs, scores, sums, weights};
use cubecl::prelude::*;

/// Below every score.
const LOWEST: f32 = -1.0e30;

#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn attention_forward<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    lse: &mut [f32],
    q_at: &Strides,
    k_at: &Strides,
    v_at: &Strides,
    sight: &Sight,
    pairs: usize,
    heads: usize,
    groups: usize,
    scale: f32,
    #[comptime] tile: Tile,
    #[define(F)] _dtype: ElemType,
) {
    let blocks = sight.s.div_ceil(tile.rows);
    if CUBE_POS >= blocks * pairs {
        terminate!();
    }
    // The last queries see most: they begin.
    let start = (blocks - 1 - CUBE_POS / pairs) * tile.rows;
    let (batch, head) = (CUBE_POS % pairs / heads, CUBE_POS % heads);
    let unit = UNIT_POS as usize;
    let share = comptime!(tile.share());
    let (row, part) = (unit / share, unit % share);
    let query = start + row;

    let mut queries = inputs::<F, N>(tile.rows, tile);
    let mut keys = inputs::<F, N>(tile.cols, tile);
    let mut score = scores(tile);
    let mut weight = weights::<F>(tile);
    let mut sum = sums(tile.rows, tile);
    let mut most = Shared::<[f32]>::new_slice(tile.units);
    let mut whole = Shared::<[f32]>::new_slice(tile.units);
    let mut lows = Shared::<[i32]>::new_slice(tile.rows);

    fill::<F, N>(
        &mut queries,
        q,
        q_at.start(batch, head),
        q_at.seq,
        start,
        sight.s,
        tile.rows,
        tile,
    );
    let low = sight.low(batch, query);
    let high = sight.high(batch, query);
    let lowest = sight.lowest(batch, start, &mut lows, tile);
    let end = sight.keys(batch, start, &mut lows, tile);
    let (k_start, v_start) = (k_at.start(batch, head / groups), v_at.start(batch, head / groups));
    let mut top = LOWEST.runtime();
    let mut total = 0.0f32;
    for n in 0..end.div_ceil(tile.cols) {
        let key = n * tile.cols;
        if sight.reaches(key, lowest, tile) {
            fill::<F, N>(&mut keys, k, k_start, k_at.seq, key, end, tile.cols, tile);
            sync_cube();
            dots::<F, N>(&queries, &keys, &mut score, tile);
            sync_cube();
            fill::<F, N>(&mut keys, v, v_start, v_at.seq, key, end, tile.cols, tile);
            let mut higher = top;
            let mut c = part;
            while c < tile.cols {
                if sight.sees(query, low, high, key + c) {
                    higher = max(higher, score[row * comptime!(tile.score_pitch()) + c] * scale);
                }
                c += share;
            }
            most[unit] = higher;
            sync_cube();
            for other in 0..share {
                higher = max(higher, most[row * share + other]);
            }
            let fade = (top - higher).exp();
            top = higher;
            let mut added = 0.0f32;
            let mut c = part;
            while c < tile.cols {
                let mut p = 0.0f32;
                if sight.sees(query, low, high, key + c) {
                    p = (score[row * comptime!(tile.score_pitch()) + c] * scale - top).exp();
                }
                weight[row * comptime!(tile.weight_pitch()) + c] = F::cast_from(p);
                added += p;
                c += share;
            }
            whole[unit] = added;
            if fade < 1.0 {
                let mut c = part;
                while c < comptime!(tile.d * tile.vector) {
                    sum[row * comptime!(tile.sum_pitch()) + c] *= fade;
                    c += share;
                }
            }
            sync_cube();
            total *= fade;
            for other in 0..share {
                total += whole[row * share + other];
            }
            combine::<F, N>(&weight, &keys, &mut sum, false, tile);
            sync_cube();
        }
    }

    sync_cube();
    let mut inverse = 0.0f32;
    let mut log = 0.0f32;
    if total > 0.0 {
        inverse = 1.0 / total;
        log = top + total.ln();
    }
    if part == 0 && query < sight.s {
        lse[(batch * sight.s + query) * heads + head] = log;
    }
    let mut c = part;
    while c < tile.d {
        if query < sight.s {
            let mut vector = Vector::<F, N>::new(F::from_int(0));
            #[unroll]
            for k in 0..tile.vector {
                let value = sum[row * comptime!(tile.sum_pitch()) + c * tile.vector + k] * inverse;
                vector.insert(k, F::cast_from(value));
            }
            out[((batch * sight.s + query) * heads + head) * tile.d + c] = vector;
        }
        c += share;
    }
}
