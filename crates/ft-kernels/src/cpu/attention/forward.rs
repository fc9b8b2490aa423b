//! The output and the logarithms that backward needs.
use super::visible::Visible;
use super::{BLOCK, Heads, Sizes, decode};
use crate::attention::{First, Span};
use crate::cpu::flex::{fresh, tensor};
use crate::cpu::gemm::{Mat, Rhs};
use crate::cpu::isa::multiversion;
use crate::cpu::{math, par, scratch};
use crate::row_invariant;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use std::ops::Range;

/// Calls with at most this many queries read keys and values once, unpacked.
pub(crate) const FEW: usize = 4;

/// The output alone: generation takes the path for few queries.
pub(crate) fn output(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    first: First<Flex>,
    span: Span,
    scale: f32,
) -> FlexTensor {
    let sizes = Sizes::new(&q, &k);
    if sizes.s > FEW && !row_invariant::on() {
        return forward(q, k, v, first, span, scale).0;
    }
    let visible = Visible::new(span, first, sizes);
    decode::output(&Heads::new(q), &Heads::new(k), &Heads::new(v), &visible, sizes, scale)
}

/// The output `[b, s, hq, d]` and the logarithms of the sums of exponentials `[b, s, hq]`.
pub(crate) fn forward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    first: First<Flex>,
    span: Span,
    scale: f32,
) -> (FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&q, &k);
    let Sizes { b, s, hq, d, .. } = sizes;
    let visible = Visible::new(span, first, sizes);
    let (q, k, v) = (Heads::new(q), Heads::new(k), Heads::new(v));
    let mut memory = scratch::take(packed_len(sizes) * 2);
    let (for_k, for_v) = memory.split_at_mut(packed_len(sizes));
    let keys = pack(sizes, for_k, |b, h| k.head(b, h).t());
    let values = pack(sizes, for_v, |b, h| v.head(b, h));
    let (mut out, mut lse) = (fresh(b * s * hq * d), fresh(b * s * hq));
    let (out_shared, lse_shared) = (par::Shared::new(&mut out), par::Shared::new(&mut lse));
    par::run(b * hq * sizes.blocks(), |task| {
        // Late blocks see more keys: they come first, so that the last tasks are short.
        let block = sizes.blocks() - 1 - task / (b * hq);
        let (batch, head) = (task % (b * hq) / hq, task % hq);
        let rows = block * BLOCK..((block + 1) * BLOCK).min(s);
        let pair = batch * sizes.hkv + head / sizes.groups();
        let job = Job {
            rows: rows.clone(),
            batch,
            visible: &visible,
            scale,
        };
        let query = q.head(batch, head).narrow_rows(rows.start, rows.len());
        job.run(query, &keys[pair], &values[pair], |i, sum, max, row| {
            let at = (batch * s + i) * hq + head;
            // SAFETY: every (row, head) belongs to one task.
            let (out, lse) = unsafe { (out_shared.slice(at * d, d), lse_shared.slice(at, 1)) };
            scale_into(row, if sum > 0.0 { 1.0 / sum } else { sum }, out);
            lse[0] = max + sum.ln();
        });
    });
    (tensor(out, [b, s, hq, d]), tensor(lse, [b, s, hq]))
}

/// Values of a packed factor of every (batch, key head).
pub(super) fn packed_len(sizes: Sizes) -> usize {
    sizes.pairs() * Rhs::packed_len(sizes.d, sizes.t).max(Rhs::packed_len(sizes.t, sizes.d))
}

/// Packs one factor per (batch, key head), on all threads.
pub(super) fn pack<'a>(
    sizes: Sizes,
    memory: &'a mut [f32],
    factor: impl Fn(usize, usize) -> Mat<'a> + Sync,
) -> Vec<Rhs<'a>> {
    use rayon::prelude::*;
    // The parts are empty where nothing is packed.
    let (part, mut rest) = (memory.len() / sizes.pairs().max(1), memory);
    let split = |_| {
        let (part, later) = std::mem::take(&mut rest).split_at_mut(part);
        rest = later;
        part
    };
    let parts: Vec<&mut [f32]> = (0..sizes.pairs()).map(split).collect();
    let parts = parts.into_par_iter().enumerate();
    parts
        .map(|(pair, memory)| Rhs::new(factor(pair / sizes.hkv, pair % sizes.hkv), memory))
        .collect()
}

/// A block of queries of one head.
struct Job<'a> {
    rows: Range<usize>,
    batch: usize,
    visible: &'a Visible,
    scale: f32,
}

impl Job<'_> {
    /// Calls `done(query, sum, maximum, Σ e·v)` for every row.
    fn run(&self, q: Mat, keys: &Rhs, values: &Rhs, done: impl Fn(usize, f32, f32, &[f32])) {
        let (n, d) = (self.rows.len(), q.cols());
        let seen = self.visible.block(self.batch, self.rows.clone());
        let start = seen.start / keys.panel() * keys.panel();
        let width = seen.end.max(start) - start;
        let mut scores = scratch::take(n * width);
        let mut out = scratch::take(n * d);
        keys.times(q, self.scale, 0..d, start..start + width, &mut scores);
        let mut stats = [(0.0f32, 0.0f32); BLOCK];
        for (r, stats) in stats.iter_mut().enumerate().take(n) {
            let range = self.visible.range(self.batch, self.rows.start + r);
            *stats = softmax(&mut scores[r * width..][..width], self.visible.prefix(), range, start);
        }
        let p = Mat::new(&scores[..n * width], n, width);
        values.times(p, 1.0, start..start + width, 0..d, &mut out);
        for (r, &(sum, max)) in stats.iter().enumerate().take(n) {
            done(self.rows.start + r, sum, max, &out[r * d..][..d]);
        }
    }
}

/// Turns the scores of keys `start..` into exponentials, zero where hidden; returns (sum, maximum).
pub(super) fn softmax(scores: &mut [f32], prefix: usize, range: Range<usize>, start: usize) -> (f32, f32) {
    let cuts = cuts(scores.len(), prefix, range, start);
    softmax_parts(scores, cuts)
}

/// The visible parts `0..a` and `b..c` of a row of scores that begins at key `start`.
pub(super) fn cuts(len: usize, prefix: usize, range: Range<usize>, start: usize) -> [usize; 3] {
    let at = |key: usize| key.saturating_sub(start).min(len);
    let a = at(prefix);
    let b = at(range.start).max(a);
    [a, b, at(range.end).max(b)]
}

multiversion! {
    fn softmax_parts(scores: &mut [f32], cuts: [usize; 3]) -> (f32, f32) {
        let [a, b, c] = cuts;
        let (learned, rest) = scores.split_at_mut(a);
        let (hidden, rest) = rest.split_at_mut(b - a);
        let (own, future) = rest.split_at_mut(c - b);
        hidden.fill(0.0);
        future.fill(0.0);
        let max = math::max(learned).max(math::max(own));
        if learned.is_empty() && own.is_empty() {
            return (0.0, 0.0);
        }
        (math::exp_sum(learned, max) + math::exp_sum(own, max), max)
    }
    fn scale_into(row: &[f32], factor: f32, out: &mut [f32]) {
        out.iter_mut().zip(row).for_each(|(o, x)| *o = x * factor);
    }
}
