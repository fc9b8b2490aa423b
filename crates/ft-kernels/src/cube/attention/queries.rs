//! The gradient to the queries: a cube for each tile of queries of a head.
//!
//! ```text
//! p = exp(scale·q·k - lse)     dp = dout·v     ds = scale·p·(dp - dout·out)     dq = Σ ds·k
//! ```
use super::sight::{Sight, Strides};
use crate::cube::tile::{Tile, combine, dots, fill, inputs, scores, sums, weights};
use cubecl::prelude::*;

/// Per query and head: the logarithm, and `dout·out`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn attention_rows<F: Float, N: Size>(
    out: &[Vector<F, N>],
    dout: &[Vector<F, N>],
    lse: &[f32],
    rows: &mut [f32],
    count: usize,
    #[comptime] d: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = ABSOLUTE_POS;
    if row >= count {
        terminate!();
    }
    let mut along = Vector::<f32, N>::new(0.0f32);
    for c in 0..d {
        along += Vector::<f32, N>::cast_from(out[row * d + c]) * Vector::<f32, N>::cast_from(dout[row * d + c]);
    }
    rows[row * 2] = lse[row];
    rows[row * 2 + 1] = along.vector_sum();
}

#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn attention_queries<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    dout: &[Vector<F, N>],
    rows: &[f32],
    dq: &mut [Vector<F, N>],
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
    let start = (blocks - 1 - CUBE_POS / pairs) * tile.rows;
    let (batch, head) = (CUBE_POS % pairs / heads, CUBE_POS % heads);
    let unit = UNIT_POS as usize;
    let share = comptime!(tile.share());
    let (row, part) = (unit / share, unit % share);
    let query = start + row;

    let mut queries = inputs::<F, N>(tile.rows, tile);
    let mut given = inputs::<F, N>(tile.rows, tile);
    let mut keys = inputs::<F, N>(tile.cols, tile);
    let mut values = inputs::<F, N>(tile.cols, tile);
    let mut score = scores(tile);
    let mut slope = scores(tile);
    let mut weight = weights::<F>(tile);
    let mut sum = sums(tile.rows, tile);
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
    let flat = heads * tile.d;
    let from = batch * sight.s * flat + head * tile.d;
    fill::<F, N>(&mut given, dout, from, flat, start, sight.s, tile.rows, tile);
    let low = sight.low(batch, query);
    let high = sight.high(batch, query);
    let lowest = sight.lowest(batch, start, &mut lows, tile);
    let end = sight.keys(batch, start, &mut lows, tile);
    let (k_start, v_start) = (k_at.start(batch, head / groups), v_at.start(batch, head / groups));
    let mut log = 0.0f32;
    let mut along = 0.0f32;
    if query < sight.s {
        let at = ((batch * sight.s + query) * heads + head) * 2;
        log = rows[at];
        along = rows[at + 1];
    }
    for n in 0..end.div_ceil(tile.cols) {
        let key = n * tile.cols;
        if sight.reaches(key, lowest, tile) {
            fill::<F, N>(&mut keys, k, k_start, k_at.seq, key, end, tile.cols, tile);
            fill::<F, N>(&mut values, v, v_start, v_at.seq, key, end, tile.cols, tile);
            sync_cube();
            dots::<F, N>(&queries, &keys, &mut score, tile);
            dots::<F, N>(&given, &values, &mut slope, tile);
            sync_cube();
            let mut c = part;
            while c < tile.cols {
                let at = row * comptime!(tile.score_pitch()) + c;
                let mut change = 0.0f32;
                if sight.sees(query, low, high, key + c) {
                    change = (score[at] * scale - log).exp() * (slope[at] - along) * scale;
                }
                weight[row * comptime!(tile.weight_pitch()) + c] = F::cast_from(change);
                c += share;
            }
            sync_cube();
            combine::<F, N>(&weight, &keys, &mut sum, false, tile);
            sync_cube();
        }
    }

    sync_cube();
    let mut c = part;
    while c < tile.d {
        if query < sight.s {
            let mut vector = Vector::<F, N>::new(F::from_int(0));
            #[unroll]
            for k in 0..tile.vector {
                let value = sum[row * comptime!(tile.sum_pitch()) + c * tile.vector + k];
                vector.insert(k, F::cast_from(value));
            }
            dq[((batch * sight.s + query) * heads + head) * tile.d + c] = vector;
        }
        c += share;
    }
}
