//! Few queries against many keys: keys and values are read once, where they lie, by all grouped heads together.
use super::visible::Visible;
use super::{Heads, Sizes};
use crate::cpu::flex::tensor;
use crate::cpu::gemm::Mat;
use crate::cpu::isa::multiversion;
use crate::cpu::{math, par, scratch, team};
use burn::backend::flex::FlexTensor;

/// Keys per task.
const KEYS: usize = 512;

/// The output `[b, s, hq, d]`.
pub(super) fn output(q: &Heads, k: &Heads, v: &Heads, visible: &Visible, sizes: Sizes, scale: f32) -> FlexTensor {
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
        for (row, out) in out.chunks_exact_mut(record).enumerate() {
            let (i, group) = (row / sizes.groups(), row % sizes.groups());
            let query = q.head(batch, head * sizes.groups() + group).narrow_rows(i, 1);
            let own = visible.range(batch, i);
            let learned = keys.start.min(visible.prefix())..keys.end.min(visible.prefix());
            let own = own.start.clamp(keys.start, keys.end)..own.end.clamp(keys.start, keys.end);
            partial_softmax(query, k, v, [learned, own], scale, out);
        }
    });
    let mut out = vec![0.0; b * s * hq * d];
    for (at, out) in out.chunks_exact_mut(d.max(1)).enumerate() {
        let (batch, i, head) = (at / (s * hq), at / hq % s, at % hq);
        let pair = batch * sizes.hkv + head / sizes.groups();
        let row = i * sizes.groups() + head % sizes.groups();
        merge(
            (0..chunks).map(|c| &partial[((pair * chunks + c) * rows + row) * record..][..record]),
            out,
        );
    }
    tensor(out, [b, s, hq, d])
}

/// One query against some keys: `out = [maximum, sum, Σ e·v]`.
fn partial_softmax(q: Mat, k: Mat, v: Mat, parts: [std::ops::Range<usize>; 2], scale: f32, out: &mut [f32]) {
    let d = q.cols();
    // SAFETY: rows of the views are contiguous.
    let row = |m: &Mat<'_>, i: usize| unsafe { std::slice::from_raw_parts(m.at::<f32>(i, 0), d) };
    let query = row(&q, 0);
    let mut scores = scratch::take(KEYS);
    let count = parts[0].len() + parts[1].len();
    let keys = || parts.clone().into_iter().flatten();
    for (score, key) in scores.iter_mut().zip(keys()) {
        *score = scale * product(query, row(&k, key));
    }
    let (max, sum) = exponentials(&mut scores[..count]);
    (out[0], out[1]) = (max, sum);
    out[2..].fill(0.0);
    for (&e, key) in scores.iter().zip(keys()) {
        add_scaled(&mut out[2..], e, row(&v, key));
    }
}

/// Joins the records of all chunks.
fn merge<'a>(records: impl Iterator<Item = &'a [f32]> + Clone, out: &mut [f32]) {
    let max = records.clone().map(|r| r[0]).fold(f32::NEG_INFINITY, f32::max);
    let weight = |r: &[f32]| if r[1] == 0.0 { 0.0 } else { (r[0] - max).exp() };
    let total: f32 = records.clone().map(|r| weight(r) * r[1]).sum();
    if total == 0.0 {
        return;
    }
    for record in records {
        add_scaled(out, weight(record) / total, &record[2..]);
    }
}

multiversion! {
    fn product(x: &[f32], y: &[f32]) -> f32 {
        math::dot(x, y)
    }
    fn exponentials(scores: &mut [f32]) -> (f32, f32) {
        let max = math::max(scores);
        (max, math::exp_sum(scores, max))
    }
    fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
        out.iter_mut().zip(x).for_each(|(o, x)| *o += factor * x);
    }
}
