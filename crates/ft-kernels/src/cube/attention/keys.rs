//! The gradients to keys and values: a cube for each tile of keys of a head, over all queries of all heads that read it.
//!
//! ```text
//! dv = Σ p·dout      dk = Σ ds·q      p and ds as for the queries
//! ```
use super::sight::{Sight, Strides};
use crate::cube::tile::{Tile, combine, dots, fill, inputs, scores, sums, weights};
use cubecl::prelude::*;

#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn attention_keys<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    dout: &[Vector<F, N>],
    rows: &[f32],
    dk: &mut [Vector<F, N>],
    dv: &mut [Vector<F, N>],
    q_at: &Strides,
    k_at: &Strides,
    v_at: &Strides,
    sight: &Sight,
    t: usize,
    pairs: usize,
    heads: usize,
    groups: usize,
    scale: f32,
    #[comptime] tile: Tile,
    #[define(F)] _dtype: ElemType,
) {
    let blocks = t.div_ceil(tile.cols);
    if CUBE_POS >= blocks * pairs {
        terminate!();
    }
    // The first keys are seen most: they begin.
    let key = CUBE_POS / pairs * tile.cols;
    let key_heads = heads / groups;
    let (batch, key_head) = (CUBE_POS % pairs / key_heads, CUBE_POS % key_heads);
    let unit = UNIT_POS as usize;
    let share = comptime!(tile.share());
    let (row, part) = (unit / share, unit % share);

    let mut queries = inputs::<F, N>(tile.rows, tile);
    let mut given = inputs::<F, N>(tile.rows, tile);
    let mut keys = inputs::<F, N>(tile.cols, tile);
    let mut values = inputs::<F, N>(tile.cols, tile);
    let mut score = scores(tile);
    let mut slope = scores(tile);
    let mut weight = weights::<F>(tile);
    let mut change = weights::<F>(tile);
    let mut to_keys = sums(tile.cols, tile);
    let mut to_values = sums(tile.cols, tile);
    let mut lows = Shared::<[i32]>::new_slice(tile.rows);

    fill::<F, N>(
        &mut keys,
        k,
        k_at.start(batch, key_head),
        k_at.seq,
        key,
        t,
        tile.cols,
        tile,
    );
    fill::<F, N>(
        &mut values,
        v,
        v_at.start(batch, key_head),
        v_at.seq,
        key,
        t,
        tile.cols,
        tile,
    );
    // Before the first query nobody sees these keys, unless some are of the prefix.
    let column = key as i32 - sight.prefix;
    let before = max(column - sight.offset, 0);
    let mut first = select(column < 0, 0usize, before as usize / tile.rows);
    if comptime!(sight.both) {
        first = 0;
    }
    for group in 0..groups {
        let head = key_head * groups + group;
        for n in first..sight.s.div_ceil(tile.rows) {
            let start = n * tile.rows;
            let lowest = sight.lowest(batch, start, &mut lows, tile);
            let mut seen = sight.reaches(key, lowest, tile);
            if comptime!(sight.both) {
                seen = seen && key < sight.keys(batch, start, &mut lows, tile);
            }
            if seen {
                let query = start + row;
                let flat = heads * tile.d;
                let from = batch * sight.s * flat + head * tile.d;
                sync_cube();
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
                fill::<F, N>(&mut given, dout, from, flat, start, sight.s, tile.rows, tile);
                sync_cube();
                dots::<F, N>(&queries, &keys, &mut score, tile);
                dots::<F, N>(&given, &values, &mut slope, tile);
                sync_cube();
                let low = sight.low(batch, query);
                let high = sight.high(batch, query);
                let mut log = 0.0f32;
                let mut along = 0.0f32;
                if query < sight.s {
                    let at = ((batch * sight.s + query) * heads + head) * 2;
                    log = rows[at];
                    along = rows[at + 1];
                }
                let mut c = part;
                while c < tile.cols {
                    let at = row * comptime!(tile.score_pitch()) + c;
                    let mut p = 0.0f32;
                    if sight.sees(query, low, high, key + c) {
                        p = (score[at] * scale - log).exp();
                    }
                    let to = row * comptime!(tile.weight_pitch()) + c;
                    weight[to] = F::cast_from(p);
                    change[to] = F::cast_from(p * (slope[at] - along) * scale);
                    c += share;
                }
                sync_cube();
                combine::<F, N>(&weight, &given, &mut to_values, true, tile);
                combine::<F, N>(&change, &queries, &mut to_keys, true, tile);
            }
        }
    }
    sync_cube();

    let mut at = unit;
    while at < comptime!(tile.cols * tile.d) {
        let (row, c) = (at / tile.d, at % tile.d);
        if key + row < t {
            let mut to_key = Vector::<F, N>::new(F::from_int(0));
            let mut to_value = Vector::<F, N>::new(F::from_int(0));
            #[unroll]
            for k in 0..tile.vector {
                let from = row * comptime!(tile.sum_pitch()) + c * tile.vector + k;
                to_key.insert(k, F::cast_from(to_keys[from]));
                to_value.insert(k, F::cast_from(to_values[from]));
            }
            let to = ((batch * t + key + row) * key_heads + key_head) * tile.d + c;
            dk[to] = to_key;
            dv[to] = to_value;
        }
        at += tile.units;
    }
}
