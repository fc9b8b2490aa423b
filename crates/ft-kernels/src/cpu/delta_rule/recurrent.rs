//! Column by column from a state: each column's numbers are the same however many there are.
use super::chunk::normalize;
use super::{Row, Sizes};
use crate::cpu::flex::{contiguous, fresh, tensor, values};
use crate::cpu::isa::multiversion;
use crate::cpu::{math, par, scratch};
use crate::gated_delta_rule::DeltaHeads;
use burn::backend::flex::FlexTensor;

/// Columns of a state that go through all columns of the text together: 16 KiB with keys of 128 numbers.
const LANES: usize = math::LANES;

/// The outputs `[b, s, value heads, value dim]` and the state behind them.
pub(crate) fn recurrent(
    state: FlexTensor,
    inputs: [FlexTensor; 3],
    first: Option<Vec<i64>>,
    heads: DeltaHeads,
) -> (FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&inputs[0], heads);
    let Sizes { b, s, .. } = sizes;
    let DeltaHeads {
        value_heads,
        key_dim: dk,
        value_dim: dv,
        ..
    } = heads;
    let (state, inputs) = (contiguous(state), inputs.map(contiguous));
    let [qkv, decay, beta] = inputs.each_ref().map(values);
    let held = values(&state);
    let (mut out, mut next) = (fresh(b * s * heads.values()), fresh(b * value_heads * sizes.state()));
    let shared = [&mut out, &mut next].map(|x| par::Shared::new(x.as_mut_slice()));
    let width = heads.width();
    par::run(b * value_heads, |task| {
        let (batch, head) = (task / value_heads, task % value_heads);
        let key_head = head / heads.group();
        let row = Row::of(first.as_deref(), batch, s);
        let column = |i: usize| &qkv[(batch * s + i) * width..][..width];
        let [mut q, mut k] = [(); 2].map(|()| scratch::take(s * dk));
        let scale = (dk as f32).sqrt().recip();
        for i in 0..s {
            let place = i * dk..(i + 1) * dk;
            normalize(&column(i)[sizes.query(key_head)..][..dk], scale, &mut q[place.clone()]);
            normalize(&column(i)[sizes.key(key_head)..][..dk], 1.0, &mut k[place]);
        }
        let own = task * sizes.state();
        let mut block = scratch::take(dk * LANES);
        for from in (0..dv).step_by(LANES) {
            let lanes = LANES.min(dv - from);
            for (line, block) in block.chunks_exact_mut(LANES).enumerate().take(dk) {
                block[..lanes].copy_from_slice(&held[own + line * dv + from..][..lanes]);
                block[lanes..].fill(0.0);
            }
            for i in 0..s {
                let gate = (batch * s + i) * value_heads + head;
                if !row.sees(i, i as i64 - 1) {
                    block.fill(0.0);
                }
                let mut v = [0.0; LANES];
                v[..lanes].copy_from_slice(&column(i)[sizes.value(head) + from..][..lanes]);
                let place = i * dk..(i + 1) * dk;
                let mut o = [0.0; LANES];
                // Padding before a text leaves nothing behind.
                if row.sees(i, i as i64) {
                    step(
                        &mut block[..dk * LANES],
                        &q[place.clone()],
                        &k[place],
                        &v,
                        decay[gate].exp(),
                        beta[gate],
                        &mut o,
                    );
                }
                let at = ((batch * s + i) * value_heads + head) * dv + from;
                // SAFETY: every (column, head) belongs to one task.
                unsafe { shared[0].slice(at, lanes) }.copy_from_slice(&o[..lanes]);
            }
            for (line, block) in block.chunks_exact(LANES).enumerate().take(dk) {
                // SAFETY: every state belongs to one task.
                unsafe { shared[1].slice(own + line * dv + from, lanes) }.copy_from_slice(&block[..lanes]);
            }
        }
    });
    (
        tensor(out, [b, s, value_heads, dv]),
        tensor(next, [b, value_heads, dk, dv]),
    )
}

multiversion! {
    /// One column on `LANES` columns of the state `[dk, LANES]`.
    fn step(state: &mut [f32], q: &[f32], k: &[f32], v: &[f32; LANES], keep: f32, beta: f32, o: &mut [f32; LANES]) {
        let (lines, _) = state.as_chunks_mut::<LANES>();
        let mut known = [0.0f32; LANES];
        for (line, k) in lines.iter_mut().zip(k) {
            for l in 0..LANES {
                line[l] *= keep;
                known[l] += k * line[l];
            }
        }
        let mut news = [0.0f32; LANES];
        for l in 0..LANES {
            news[l] = beta * (v[l] - known[l]);
        }
        let mut out = [0.0f32; LANES];
        for ((line, k), q) in lines.iter_mut().zip(k).zip(q) {
            for l in 0..LANES {
                line[l] += k * news[l];
                out[l] += q * line[l];
            }
        }
        *o = out;
    }
}
