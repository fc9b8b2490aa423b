//! Few queries against many keys: keys and values are read once, where they lie, by all grouped heads together.
use super::visible::Visible;
use super::{Heads, Sizes};
use crate::attention::Scale;
use crate::cpu::flex::tensor;
use crate::cpu::gemm::{Mat, dot_products};
use crate::cpu::isa::multiversion;
use crate::cpu::{math, par, scratch, soft_cap, team};
use burn::backend::flex::FlexTensor;
use std::ops::Range;

/// Keys per task.
const KEYS: usize = 512;

/// The output `[b, s, hq, d]`.
pub(super) fn output(
    q: &Heads,
    k: &Heads,
    v: &Heads,
    sinks: Option<&[f32]>,
    visible: &Visible,
    sizes: Sizes,
    scale: Scale,
) -> FlexTensor {
    let Sizes { b, s, t, hq, d, .. } = sizes;
    let (rows, chunks) = (s * sizes.groups(), t.div_ceil(KEYS));
    // Per (batch, key head), chunk of keys and row: maximum, sum, Σ e·v.
    let record = d + 2;
    let mut partial = scratch::take(sizes.pairs() * chunks * rows * record);
    let shared = par::Shared::new(&mut partial);
    team::run(sizes.pairs() * chunks, |task| {
        let (pair, chunk) = (task / chunks, task % chunks);
        // SAFETY: every task has its own records.
        let out = unsafe { shared.slice(task * rows * record, rows * record) };
        let keys = chunk * KEYS..((chunk + 1) * KEYS).min(t);
        let (batch, head) = (pair / sizes.hkv, pair % sizes.hkv);
        let (k, v) = (k.head(batch, head), v.head(batch, head));
        for (i, out) in out.chunks_exact_mut(sizes.groups() * record).enumerate() {
            let queries = q.heads(batch, i, head * sizes.groups()..(head + 1) * sizes.groups());
            let own = visible.range(batch, i);
            let learned = keys.start.min(visible.prefix())..keys.end.min(visible.prefix());
            let own = own.start.clamp(keys.start, keys.end)..own.end.clamp(keys.start, keys.end);
            partial_softmax(queries, k, v, [learned, own], scale, out);
        }
    });
    let mut out = vec![0.0; b * s * hq * d];
    for (at, out) in out.chunks_exact_mut(d.max(1)).enumerate() {
        let (batch, i, head) = (at / (s * hq), at / hq % s, at % hq);
        let pair = batch * sizes.hkv + head / sizes.groups();
        let row = i * sizes.groups() + head % sizes.groups();
        merge(
            sinks.map(|sinks| sinks[head]),
            (0..chunks).map(|c| &partial[((pair * chunks + c) * rows + row) * record..][..record]),
            out,
        );
    }
    tensor(out, [b, s, hq, d])
}

/// The queries `[heads, d]` that share keys, against some of them: `out` takes `[maximum, sum, Σ e·v]` of each.
fn partial_softmax(q: Mat, k: Mat, v: Mat, parts: [Range<usize>; 2], scale: Scale, out: &mut [f32]) {
    let d = q.cols();
    let count = parts[0].len() + parts[1].len();
    let mut scores = scratch::take(q.rows() * count);
    let mut from = 0;
    for keys in &parts {
        dot_products(
            q,
            k.narrow_rows(keys.start, keys.len()),
            scale.factor as f32,
            &mut scores[from..],
            count,
        );
        from += keys.len();
    }
    if let Some(cap) = scale.cap {
        soft_cap::bound(&mut scores, cap as f32);
    }
    for (row, out) in out.chunks_exact_mut(d + 2).enumerate() {
        let scores = &mut scores[row * count..][..count];
        (out[0], out[1]) = exponentials(scores);
        let (mut scores, sums) = (&*scores, &mut out[2..]);
        sums.fill(0.0);
        for keys in &parts {
            let (now, later) = scores.split_at(keys.len());
            add_rows(sums, now, v.narrow_rows(keys.start, keys.len()));
            scores = later;
        }
    }
}

/// `out += Σ weight_i · row_i`, rows in their order.
fn add_rows(out: &mut [f32], weights: &[f32], rows: Mat) {
    let stride = rows.row_stride();
    let Some(last) = weights.len().checked_sub(1) else {
        return;
    };
    // SAFETY: from the first value of the first row to the last of the last one; the rows are contiguous.
    let rows = unsafe { std::slice::from_raw_parts(rows.at::<f32>(0, 0), last * stride + out.len()) };
    for (part, at) in out.chunks_mut(LANES).zip((0..).step_by(LANES)) {
        match <&mut [f32; LANES]>::try_from(&mut *part) {
            Ok(part) => add_lanes(part, weights, &rows[at..], stride),
            Err(_) => {
                let parts = weights.iter().zip(rows[at..].chunks(stride));
                parts.for_each(|(weight, row)| add_scaled(part, *weight, &row[..part.len()]));
            }
        }
    }
}

/// Values of a row that are summed in registers.
const LANES: usize = 32;

/// Joins the records of all chunks, beside a sink where there is one.
fn merge<'a>(sink: Option<f32>, records: impl Iterator<Item = &'a [f32]> + Clone, out: &mut [f32]) {
    let start = sink.unwrap_or(f32::NEG_INFINITY);
    let max = records.clone().map(|r| r[0]).fold(start, f32::max);
    let weight = |r: &[f32]| if r[1] == 0.0 { 0.0 } else { (r[0] - max).exp() };
    let total: f32 = records.clone().map(|r| weight(r) * r[1]).sum();
    let total = total + sink.map_or(0.0, |sink| (sink - max).exp());
    if total == 0.0 {
        return;
    }
    for record in records {
        add_scaled(out, weight(record) / total, &record[2..]);
    }
}

multiversion! {
    fn add_lanes(out: &mut [f32; LANES], weights: &[f32], rows: &[f32], stride: usize) {
        let mut sums = *out;
        for (weight, row) in weights.iter().zip(rows.chunks(stride)) {
            sums.iter_mut().zip(&row[..LANES]).for_each(|(sum, value)| *sum += weight * value);
        }
        *out = sums;
    }
    fn exponentials(scores: &mut [f32]) -> (f32, f32) {
        let max = math::max(scores);
        (max, math::exp_sum(scores, max))
    }
    fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
        out.iter_mut().zip(x).for_each(|(o, x)| *o += factor * x);
    }
}
