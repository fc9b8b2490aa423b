//! Few queries against many keys: keys and values are read once, where they lie, by all grouped heads together.
use super::visible::Visible;
use super::{Heads, Sizes};
use crate::attention::{First, Span};
use crate::cpu::flex::tensor;
use crate::cpu::gemm::{Mat, dot_products};
use crate::cpu::isa::multiversion;
use crate::cpu::{math, par, scratch, team};
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use std::ops::Range;

/// Keys per task.
const KEYS: usize = 512;

/// The output `[b, s, hq, d]`.
pub(super) fn output(q: &Heads, k: &Heads, v: &Heads, visible: &Visible, sizes: Sizes, scale: f32) -> FlexTensor {
    let Sizes { b, s, hq, d, .. } = sizes;
    let row = |batch| Row {
        keys: [k, v],
        batch,
        visible,
        sizes,
    };
    let rows: Vec<Row> = (0..b).map(row).collect();
    let out = outputs(&rows, |row, i, heads| q.heads(row, i, heads), scale);
    tensor(out, [b, s, hq, d])
}

/// A sequence of [`apart`]: `[1, t, hkv, d]`.
pub(crate) struct Past {
    pub keys: FlexTensor,
    pub values: FlexTensor,
    pub queries: usize,
    pub span: Span,
}

/// q `[tokens, 1, hq, d]`, the queries of each sequence behind those of the one before, to the same.
pub(crate) fn apart(q: FlexTensor, pasts: Vec<Past>, scale: f32) -> FlexTensor {
    let shape = q.shape();
    let [_, _, hq, d] = shape.dims();
    let sequence = |past: Past| {
        let [_, t, hkv, _] = past.keys.shape().dims();
        let s = past.queries;
        let sizes = Sizes { b: 1, s, t, hq, hkv, d };
        let visible = Visible::new(past.span, First::Start, sizes);
        (Heads::new(past.keys), Heads::new(past.values), visible, sizes)
    };
    let sequences: Vec<_> = pasts.into_iter().map(sequence).collect();
    let (mut rows, mut starts, mut end) = (Vec::new(), Vec::new(), 0);
    for (k, v, visible, sizes) in &sequences {
        let (keys, sizes) = ([k, v], *sizes);
        rows.push(Row {
            keys,
            batch: 0,
            visible,
            sizes,
        });
        starts.push(end);
        end += sizes.s;
    }
    let q = Heads::new(q);
    let out = outputs(&rows, |row, i, heads| q.heads(starts[row] + i, 0, heads), scale);
    tensor(out, shape)
}

/// Queries that see the same keys.
struct Row<'a> {
    /// And values.
    keys: [&'a Heads; 2],
    /// Which row of them.
    batch: usize,
    visible: &'a Visible,
    sizes: Sizes,
}

/// The outputs `[hq, d]` of all queries of all rows. `query` gives some heads of a query of a row.
fn outputs<'q>(rows: &[Row<'_>], query: impl Fn(usize, usize, Range<usize>) -> Mat<'q> + Sync, scale: f32) -> Vec<f32> {
    // Per row, key head, chunk of keys and query: maximum, sum, Σ e·v.
    let (mut tasks, mut starts, mut end) = (Vec::new(), Vec::with_capacity(rows.len()), 0);
    for (number, row) in rows.iter().enumerate() {
        starts.push(end);
        let (chunks, len) = (row.chunks(), row.records());
        let own = (0..row.sizes.hkv * chunks).map(|task| (number, task / chunks, task % chunks, end + task * len));
        tasks.extend(own);
        end += row.sizes.hkv * chunks * len;
    }
    let mut partial = scratch::take(end);
    let shared = par::Shared::new(&mut partial);
    team::run(tasks.len(), |task| {
        let (number, head, chunk, start) = tasks[task];
        let row = &rows[number];
        let (groups, len) = (row.sizes.groups(), row.records());
        // SAFETY: every task has its own records.
        let out = unsafe { shared.slice(start, len) };
        let keys = chunk * KEYS..((chunk + 1) * KEYS).min(row.sizes.t);
        let [k, v] = row.keys.map(|keys| keys.head(row.batch, head));
        for (i, out) in out.chunks_exact_mut(groups * (row.sizes.d + 2)).enumerate() {
            let queries = query(number, i, head * groups..(head + 1) * groups);
            let own = row.visible.range(row.batch, i);
            let prefix = row.visible.prefix();
            let learned = keys.start.min(prefix)..keys.end.min(prefix);
            let own = own.start.clamp(keys.start, keys.end)..own.end.clamp(keys.start, keys.end);
            partial_softmax(queries, k, v, [learned, own], scale, out);
        }
    });
    let len = |row: &Row| row.sizes.s * row.sizes.hq * row.sizes.d;
    let mut out = vec![0.0; rows.iter().map(len).sum()];
    let mut rest = out.as_mut_slice();
    for (row, start) in rows.iter().zip(starts) {
        let Sizes { hq, d, .. } = row.sizes;
        let (groups, record, chunks) = (row.sizes.groups(), d + 2, row.chunks());
        let (own, behind) = rest.split_at_mut(len(row));
        rest = behind;
        for (at, out) in own.chunks_exact_mut(d.max(1)).enumerate() {
            let (i, head) = (at / hq, at % hq);
            let line = i * groups + head % groups;
            let first = start + head / groups * chunks * row.records();
            let chunk = |c: usize| &partial[first + c * row.records() + line * record..][..record];
            merge((0..chunks).map(chunk), out);
        }
    }
    out
}

impl Row<'_> {
    /// Parts of the keys.
    fn chunks(&self) -> usize {
        self.sizes.t.div_ceil(KEYS)
    }

    /// Length of what a task writes.
    fn records(&self) -> usize {
        self.sizes.s * self.sizes.groups() * (self.sizes.d + 2)
    }
}

/// The queries `[heads, d]` that share keys, against some of them: `out` takes `[maximum, sum, Σ e·v]` of each.
fn partial_softmax(q: Mat, k: Mat, v: Mat, parts: [Range<usize>; 2], scale: f32, out: &mut [f32]) {
    let d = q.cols();
    let count = parts[0].len() + parts[1].len();
    let mut scores = scratch::take(q.rows() * count);
    let mut from = 0;
    for keys in &parts {
        dot_products(
            q,
            k.narrow_rows(keys.start, keys.len()),
            scale,
            &mut scores[from..],
            count,
        );
        from += keys.len();
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
