//! Outputs from a state of zeros.
use super::chunk::{Gates, Keys, scale_rows};
use super::{Row, Sizes};
use crate::cpu::flex::{contiguous, fresh, tensor, values};
use crate::cpu::gemm::{Mat, Par, Term, gemm};
use crate::cpu::{par, scratch};
use crate::gated_delta_rule::{CHUNK, DeltaHeads};
use burn::backend::flex::FlexTensor;

/// The outputs `[b, s, value heads, value dim]` from qkv, decay and beta.
pub(crate) fn forward(inputs: [FlexTensor; 3], first: Option<Vec<i64>>, heads: DeltaHeads) -> FlexTensor {
    let sizes = Sizes::new(&inputs[0], heads);
    let Sizes { b, s, .. } = sizes;
    let DeltaHeads {
        key_heads,
        value_heads,
        key_dim: dk,
        value_dim: dv,
    } = heads;
    let inputs = inputs.map(contiguous);
    let [qkv, decay, beta] = inputs.each_ref().map(values);
    let mut out = fresh(b * s * heads.values());
    let shared = par::Shared::new(&mut out);
    par::run(b * key_heads, |task| {
        let (batch, key_head) = (task / key_heads, task % key_heads);
        let row = Row::of(first.as_deref(), batch, s);
        let width = heads.width();
        let x = &qkv[batch * s * width..][..s * width];
        let gates = [decay, beta].map(|x| &x[batch * s * value_heads..][..s * value_heads]);
        let mut states = scratch::take(heads.group() * sizes.state());
        states.fill(0.0);
        let mut memory = scratch::take(CHUNK * (3 * dv + dk));
        for start in (0..s).step_by(CHUNK) {
            let columns = start..(start + CHUNK).min(s);
            let n = columns.len();
            let keys = Keys::new(x, columns.clone(), key_head, &sizes);
            let (z, rest) = memory.split_at_mut(CHUNK * dv);
            let (news, rest) = rest.split_at_mut(CHUNK * dv);
            let (outputs, faded) = rest.split_at_mut(CHUNK * dv);
            let (z, news, outputs) = (&mut z[..n * dv], &mut news[..n * dv], &mut outputs[..n * dv]);
            for (own, state) in states.chunks_exact_mut(sizes.state()).enumerate() {
                let head = key_head * heads.group() + own;
                let gates = Gates::new(&keys, gates, columns.clone(), [head, value_heads], row);
                let held = Mat::new(&*state, dk, dv);
                gates.solve(&keys, held, (x, width, sizes.value(head)), start, z, news);
                // O = E (Q S) + B N; z is free again.
                gemm(&[Term::new(keys.queries(), held)], z, dv, false, Par::One);
                scale_rows(z, &gates.shown[..n], outputs, dv);
                let within = Term::new(Mat::new(&gates.within[..], n, n), Mat::new(&*news, n, dv));
                gemm(&[within], outputs, dv, true, Par::One);
                for (i, line) in outputs.chunks_exact(dv).enumerate() {
                    let at = ((batch * s + start + i) * value_heads + head) * dv;
                    // SAFETY: every (column, head) belongs to one task.
                    unsafe { shared.slice(at, dv) }.copy_from_slice(line);
                }
                gates.carry(&keys, news, state, &mut faded[..n * dk]);
            }
        }
    });
    tensor(out, [b, s, value_heads, dv])
}
