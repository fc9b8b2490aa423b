//! Gradients to q, k and v; probabilities are computed again from the logarithms that forward kept.
//!
//! ```text
//!  P = exp(S - lse), S = scale·Q·Kᵀ    dP = dO·Vᵀ    dS = scale·P∘(dP - rowsum(dO∘O))
//!  dV = PᵀdO    dK = dSᵀQ    dQ = dS·K               bounded: S = cap·tanh(scale·Q·Kᵀ / cap), dS times 1 - (S / cap)²
//! ```
use super::forward::{cuts, pack, packed_len};
use super::visible::Visible;
use super::{BLOCK, Heads, Sizes};
use crate::attention::{First, Scale, Span};
use crate::cpu::flex::{contiguous, fresh, tensor, values};
use crate::cpu::gemm::{Mat, Par, Rhs, Term, gemm};
use crate::cpu::isa::multiversion;
use crate::cpu::{math, par, scratch, soft_cap};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

/// Tasks to aim for. Sums over tasks depend on their number, so it does not follow the machine.
const TASKS: usize = 32;

/// Gradients to q, k and v from q, k, v, out, lse and the output's gradient.
pub(crate) fn backward(
    [q, k, v, out, lse, dout]: [FlexTensor; 6],
    first: First<Flex>,
    span: Span,
    scale: Scale,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&q, &k);
    let Sizes { b, s, t, hq, hkv, d } = sizes;
    let visible = Visible::new(span, first, sizes);
    let [q, k, v, out, dout] = [q, k, v, out, dout].map(Heads::new);
    let lse = contiguous(lse);
    let part = packed_len(sizes);
    let mut memory = scratch::take(part * 3);
    let (for_scores, rest) = memory.split_at_mut(part);
    let (for_queries, for_values) = rest.split_at_mut(part);
    let factors = Factors {
        scores: pack(sizes, for_scores, |b, h| k.head(b, h).t()),
        queries: pack(sizes, for_queries, |b, h| k.head(b, h)),
        values: pack(sizes, for_values, |b, h| v.head(b, h).t()),
    };
    // (query head of the group, block) pairs are dealt to a fixed number of tasks per key head.
    let jobs = sizes.groups() * sizes.blocks();
    let deals = TASKS.div_ceil(sizes.pairs().max(1)).clamp(1, jobs.max(1));
    let mut dq = fresh(b * s * hq * d);
    let mut sums = scratch::take(sizes.pairs() * deals * 2 * t * d);
    let (dq_shared, sums_shared) = (par::Shared::new(&mut dq), par::Shared::new(&mut sums));
    par::run(sizes.pairs() * deals, |task| {
        let (pair, deal) = (task / deals, task % deals);
        let (batch, key_head) = (pair / hkv, pair % hkv);
        // SAFETY: every task has its own sums.
        let (dk, dv) = unsafe { sums_shared.slice(task * 2 * t * d, 2 * t * d) }.split_at_mut(t * d);
        dk.fill(0.0);
        dv.fill(0.0);
        for job in (deal..jobs).step_by(deals) {
            let head = key_head * sizes.groups() + job / sizes.blocks();
            let start = job % sizes.blocks() * BLOCK;
            let rows = BLOCK.min(s - start);
            let block = Block {
                batch,
                start,
                visible: &visible,
                scale,
                lse: Mat::strided(&values(&lse)[(batch * s + start) * hq + head..], rows, 1, hq, 1),
                q: q.head(batch, head).narrow_rows(start, rows),
                out: out.head(batch, head).narrow_rows(start, rows),
                dout: dout.head(batch, head).narrow_rows(start, rows),
            };
            block.run(&factors, pair, dk, dv, |i, row| {
                // SAFETY: every (row, head) belongs to one task.
                unsafe { dq_shared.slice(((batch * s + i) * hq + head) * d, d) }.copy_from_slice(row);
            });
        }
    });
    let (dk, dv) = collect(&sums, sizes, deals);
    (
        tensor(dq, [b, s, hq, d]),
        tensor(dk, [b, t, hkv, d]),
        tensor(dv, [b, t, hkv, d]),
    )
}

/// What the products of a block multiply by, per (batch, key head): Kᵀ, K and Vᵀ.
struct Factors<'a> {
    scores: Vec<Rhs<'a>>,
    queries: Vec<Rhs<'a>>,
    values: Vec<Rhs<'a>>,
}

/// A block of queries of one head.
struct Block<'a> {
    batch: usize,
    start: usize,
    visible: &'a Visible,
    scale: Scale,
    lse: Mat<'a>,
    q: Mat<'a>,
    out: Mat<'a>,
    dout: Mat<'a>,
}

impl Block<'_> {
    /// Adds to dk and dv `[t, d]` and gives every row of dq.
    fn run(&self, by: &Factors, pair: usize, dk: &mut [f32], dv: &mut [f32], done: impl Fn(usize, &[f32])) {
        let (n, d) = (self.q.rows(), self.q.cols());
        let seen = self.visible.block(self.batch, self.start..self.start + n);
        let panel = by.scores[pair].panel();
        let start = seen.start / panel * panel;
        let width = seen.end.max(start) - start;
        let keys = start..start + width;
        let (mut p, mut ds, mut dq) = (scratch::take(n * width), scratch::take(n * width), scratch::take(n * d));
        let (scale, cap) = (self.scale.factor as f32, self.scale.cap.map(|cap| cap as f32));
        by.scores[pair].times(self.q, scale, 0..d, keys.clone(), &mut p);
        if let Some(cap) = cap {
            soft_cap::bound(&mut p[..n * width], cap);
        }
        by.values[pair].times(self.dout, 1.0, 0..d, keys.clone(), &mut ds);
        for r in 0..n {
            let range = self.visible.range(self.batch, self.start + r);
            let cuts = cuts(width, self.visible.prefix(), range, start);
            // SAFETY: row r of the views, whose rows are contiguous.
            let (along, lse) = unsafe {
                let row = |m: &Mat| std::slice::from_raw_parts(m.at::<f32>(r, 0), d);
                (product(row(&self.dout), row(&self.out)), self.lse.get(r, 0))
            };
            slopes(
                &mut p[r * width..][..width],
                &mut ds[r * width..][..width],
                cuts,
                lse,
                along,
                [scale, cap.map_or(0.0, f32::recip)],
            );
        }
        let (p, ds) = (
            Mat::new(&p[..n * width], n, width),
            Mat::new(&ds[..n * width], n, width),
        );
        if width > 0 {
            gemm(&[Term::new(p.t(), self.dout)], &mut dv[start * d..], d, true, Par::One);
            gemm(&[Term::new(ds.t(), self.q)], &mut dk[start * d..], d, true, Par::One);
        }
        by.queries[pair].times(ds, 1.0, keys, 0..d, &mut dq);
        dq.chunks_exact(d)
            .enumerate()
            .for_each(|(r, row)| done(self.start + r, row));
    }
}

/// Adds the tasks' sums up into `[b, t, hkv, d]`.
fn collect(sums: &[f32], sizes: Sizes, deals: usize) -> (Vec<f32>, Vec<f32>) {
    let Sizes { b, t, hkv, d, .. } = sizes;
    let (mut dk, mut dv) = (fresh(b * t * hkv * d), fresh(b * t * hkv * d));
    for (kind, out) in [&mut dk, &mut dv].into_iter().enumerate() {
        let shared = par::Shared::new(out);
        par::row_blocks(b * t, hkv * d, |first, len| {
            for (row, head) in (first..first + len).flat_map(|row| (0..hkv).map(move |head| (row, head))) {
                let (pair, step) = ((row / t) * hkv + head, row % t);
                // SAFETY: every row belongs to one task.
                let out = unsafe { shared.slice((row * hkv + head) * d, d) };
                for deal in 0..deals {
                    let part = &sums[(((pair * deals + deal) * 2 + kind) * t + step) * d..][..d];
                    match deal {
                        0 => out.copy_from_slice(part),
                        _ => add(out, part),
                    }
                }
            }
        });
    }
    (dk, dv)
}

multiversion! {
    fn product(x: &[f32], y: &[f32]) -> f32 {
        math::dot(x, y)
    }
    fn add(x: &mut [f32], y: &[f32]) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
    /// Scores -> P and dP -> dS of one row; zero where hidden. One over the cap is 0 where scores are not bounded.
    fn slopes(p: &mut [f32], ds: &mut [f32], cuts: [usize; 3], lse: f32, along: f32, factors: [f32; 2]) {
        let ([a, b, c], [scale, inverse_cap]) = (cuts, factors);
        for range in [a..b, c..p.len()] {
            p[range.clone()].fill(0.0);
            ds[range].fill(0.0);
        }
        for range in [0..a, b..c] {
            for (p, ds) in p[range.clone()].iter_mut().zip(&mut ds[range]) {
                let t = *p * inverse_cap;
                *p = math::exp(*p - lse);
                *ds = scale * *p * (*ds - along) * (1.0 - t * t);
            }
        }
    }
}
