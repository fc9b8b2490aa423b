//! Gradients to queries, keys, values and gates. Nothing but the inputs is kept: a first pass computes the state before every chunk, a
//! second one goes through the chunks from the last to the first.
//!
//! ```text
//!  dN = Bᵀ dO + F K dS'      dR = (I + A)⁻ᵀ dN      dA = -dR Nᵀ      dB = dO Nᵀ      dP = -β E dR, for P = K S
//!  dS = e^G(last) dS' + Qᵀ (E dO) + Kᵀ dP           dV = β dR        dβ = dR·Z + rowsum(dA ∘ K Kᵀ ∘ D)
//!  dQ = E (dO Sᵀ) + (dB ∘ D) K                      dK = F (N dS'ᵀ) + dP Sᵀ + (dB ∘ D)ᵀ Q + (M + Mᵀ) K, for M = β dA ∘ D
//!  dG = rows of what was multiplied with e^G, minus those with e^(-G);  dg = the sums of dG from a column to its chunk's end
//! ```
use super::chunk::{Gates, Keys, backward_substitution, product, scale, scale_rows};
use super::{Row, Sizes};
use crate::cpu::flex::{contiguous, fresh, tensor, values};
use crate::cpu::gemm::{Mat, Par, Term, gemm};
use crate::cpu::isa::multiversion;
use crate::cpu::{math, par, scratch};
use crate::gated_delta_rule::{CHUNK, DeltaHeads};
use burn::backend::flex::FlexTensor;

/// Gradients to qkv, decay and beta from those and the outputs' gradient.
pub(crate) fn backward(
    inputs: [FlexTensor; 4],
    first: Option<Vec<i64>>,
    heads: DeltaHeads,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&inputs[0], heads);
    let Sizes { b, s, .. } = sizes;
    let (width, value_heads) = (heads.width(), heads.value_heads);
    let inputs = inputs.map(contiguous);
    let [qkv, decay, beta, dout] = inputs.each_ref().map(values);
    let (mut dqkv, mut ddecay, mut dbeta) = (
        fresh(b * s * width),
        fresh(b * s * value_heads),
        fresh(b * s * value_heads),
    );
    let shared = [&mut dqkv, &mut ddecay, &mut dbeta].map(|x| par::Shared::new(x.as_mut_slice()));
    par::run(b * heads.key_heads, |task| {
        let (batch, key_head) = (task / heads.key_heads, task % heads.key_heads);
        let head = KeyHead {
            sizes,
            key_head,
            row: Row::of(first.as_deref(), batch, s),
            x: part(qkv, batch, s * width),
            gates: [decay, beta].map(|x| part(x, batch, s * value_heads)),
            dout: part(dout, batch, s * heads.values()),
            to_qkv: shared[0].at(batch * s * width),
            to_gates: [
                shared[1].at(batch * s * value_heads),
                shared[2].at(batch * s * value_heads),
            ],
        };
        let states = head.states();
        head.run(&states);
    });
    let gates = [b, s, value_heads];
    (tensor(dqkv, [b, s, width]), tensor(ddecay, gates), tensor(dbeta, gates))
}

fn part(x: &[f32], number: usize, len: usize) -> &[f32] {
    &x[number * len..][..len]
}

/// A key head of a row with its value heads.
struct KeyHead<'a> {
    sizes: Sizes,
    key_head: usize,
    row: Row<'a>,
    /// `[s, width]`.
    x: &'a [f32],
    /// `[s, value heads]`: decay and beta.
    gates: [&'a [f32]; 2],
    /// `[s, value heads, value dim]`.
    dout: &'a [f32],
    to_qkv: par::Shared<f32>,
    to_gates: [par::Shared<f32>; 2],
}

/// Gradients of a chunk to normalized queries and keys `[n, dk]`, of all value heads.
struct Sums {
    dq: scratch::Scratch,
    dk: scratch::Scratch,
}

impl KeyHead<'_> {
    fn head(&self, own: usize) -> usize {
        self.key_head * self.sizes.heads.group() + own
    }

    fn gates(&self, keys: &Keys, start: usize, head: usize) -> Gates {
        let place = [head, self.sizes.heads.value_heads];
        Gates::new(keys, self.gates, start..start + keys.n, place, self.row)
    }

    fn keys(&self, start: usize) -> Keys {
        let end = (start + CHUNK).min(self.sizes.s);
        Keys::new(self.x, start..end, self.key_head, &self.sizes)
    }

    /// Z and N of a value head.
    fn solve(&self, gates: &Gates, keys: &Keys, state: &[f32], start: usize, head: usize, [z, n]: [&mut [f32]; 2]) {
        let heads = self.sizes.heads;
        let state = Mat::new(state, heads.key_dim, heads.value_dim);
        let values = (self.x, heads.width(), self.sizes.value(head));
        gates.solve(keys, state, values, start, z, n);
    }

    /// The states of the value heads before every chunk, one chunk behind the other.
    fn states(&self) -> scratch::Scratch {
        let (heads, size) = (self.sizes.heads, self.sizes.state());
        let step = heads.group() * size;
        let chunks = self.sizes.s.div_ceil(CHUNK);
        let mut states = scratch::take(chunks * step);
        if chunks > 0 {
            states[..step].fill(0.0);
        }
        let (mut z, mut news) = (
            scratch::take(CHUNK * heads.value_dim),
            scratch::take(CHUNK * heads.value_dim),
        );
        let mut faded = scratch::take(CHUNK * heads.key_dim);
        for chunk in 1..chunks {
            let start = (chunk - 1) * CHUNK;
            let keys = self.keys(start);
            let (before, after) = states.split_at_mut(chunk * step);
            after[..step].copy_from_slice(&before[(chunk - 1) * step..]);
            for (own, state) in after[..step].chunks_exact_mut(size).enumerate() {
                let gates = self.gates(&keys, start, self.head(own));
                self.solve(&gates, &keys, state, start, self.head(own), [&mut z, &mut news]);
                gates.carry(&keys, &news, state, &mut faded);
            }
        }
        states
    }

    fn run(&self, states: &[f32]) {
        let (heads, size) = (self.sizes.heads, self.sizes.state());
        let step = heads.group() * size;
        let mut to_states = scratch::take(step);
        to_states.fill(0.0);
        let mut sums = Sums {
            dq: scratch::take(CHUNK * heads.key_dim),
            dk: scratch::take(CHUNK * heads.key_dim),
        };
        for (chunk, states) in states.chunks_exact(step).enumerate().rev() {
            let start = chunk * CHUNK;
            let keys = self.keys(start);
            sums.dq.fill(0.0);
            sums.dk.fill(0.0);
            for (own, (state, to_state)) in states
                .chunks_exact(size)
                .zip(to_states.chunks_exact_mut(size))
                .enumerate()
            {
                self.value_head(&keys, start, self.head(own), state, to_state, &mut sums);
            }
            self.write(&keys, start, &sums);
        }
    }

    /// Adds a value head's part to `sums`, writes its gradients to values and gates, and turns the gradient of the state behind the chunk into
    /// that of the state before it.
    fn value_head(&self, keys: &Keys, start: usize, head: usize, state: &[f32], to_state: &mut [f32], sums: &mut Sums) {
        let heads = self.sizes.heads;
        let (n, d, dv) = (keys.n, heads.key_dim, heads.value_dim);
        let gates = self.gates(keys, start, head);
        let [mut z, mut news, mut dnews, mut dout, mut work] = [(); 5].map(|()| scratch::take(n * dv));
        let [mut inner, mut faded] = [(); 2].map(|()| scratch::take(n * d));
        let [mut da, mut db] = [(); 2].map(|()| scratch::take(n * n));
        self.solve(&gates, keys, state, start, head, [&mut z, &mut news]);
        for (i, line) in dout.chunks_exact_mut(dv).enumerate() {
            line.copy_from_slice(&self.dout[((start + i) * heads.value_heads + head) * dv..][..dv]);
        }
        let product_into = |terms: &[Term], to: &mut [f32], width: usize| gemm(terms, to, width, false, Par::One);
        let before = Mat::new(state, d, dv);
        let (of_news, of_out) = (Mat::new(&news[..], n, dv), Mat::new(&dout[..], n, dv));
        let mut slopes = [0.0f64; CHUNK]; // dG

        scale_rows(&keys.k, &gates.carried[..n], &mut faded, d);
        let after = Mat::new(&*to_state, d, dv);
        let within = Mat::new(&gates.within[..], n, n);
        let parts = [
            Term::new(within.t(), of_out),
            Term::new(Mat::new(&faded[..], n, d), after),
        ];
        product_into(&parts, &mut dnews, dv);
        product_into(&[Term::new(of_out, of_news.t())], &mut db, n);

        // What the columns read of the state before, and what they left in the one behind.
        product_into(&[Term::new(of_out, before.t())], &mut inner, d);
        for (i, slope) in slopes.iter_mut().enumerate().take(n) {
            let row = i * d..(i + 1) * d;
            add_scaled(&mut sums.dq[row.clone()], &inner[row.clone()], gates.shown[i]);
            *slope += f64::from(gates.shown[i] * product(&keys.q[row.clone()], &inner[row]));
        }
        product_into(&[Term::new(of_news, after.t())], &mut inner, d);
        for i in 0..n {
            let row = i * d..(i + 1) * d;
            add_scaled(&mut sums.dk[row.clone()], &inner[row.clone()], gates.carried[i]);
            let along = f64::from(gates.carried[i] * product(&keys.k[row.clone()], &inner[row]));
            slopes[i] -= along;
            slopes[n - 1] += along;
        }
        slopes[n - 1] += f64::from(gates.rest * product(state, to_state));

        backward_substitution(&gates.system, &mut dnews, n, dv);
        let of_right = Mat::new(&dnews[..], n, dv); // dR
        product_into(&[Term::scaled(of_right, of_news.t(), -1.0)], &mut da, n);
        let mut to_beta = [0.0f32; CHUNK];
        for (i, to_beta) in to_beta.iter_mut().enumerate().take(n) {
            let row = i * dv..(i + 1) * dv;
            *to_beta = product(&dnews[row.clone()], &z[row.clone()]);
            // dP.
            add_scaled_to(&mut work[row.clone()], &dnews[row], -gates.beta[i] * gates.shown[i]);
        }
        let of_read = Mat::new(&work[..], n, dv);
        product_into(&[Term::new(of_read, before.t())], &mut inner, d);
        for (i, slope) in slopes.iter_mut().enumerate().take(n) {
            let row = i * d..(i + 1) * d;
            add_scaled(&mut sums.dk[row.clone()], &inner[row.clone()], 1.0);
            *slope += f64::from(product(&keys.k[row.clone()], &inner[row]));
        }
        for i in 0..n {
            let line = i * n..(i + 1) * n;
            let end = i * n..i * n + i + 1;
            let mut along = [0.0f32; CHUNK];
            to_beta[i] += pull(
                &mut da[end.clone()],
                &mut db[end.clone()],
                &gates.system[end.clone()],
                &gates.within[end.clone()],
                &gates.pairs[end.clone()],
                &keys.kk[end],
                gates.beta[i],
                &mut along[..i + 1],
            );
            da[line.clone()][i..].fill(0.0);
            db[line][i + 1..].fill(0.0);
            for (j, along) in along[..i].iter().enumerate() {
                slopes[i] += f64::from(*along);
                slopes[j] -= f64::from(*along);
            }
        }
        let (m, l) = (Mat::new(&da[..], n, n), Mat::new(&db[..], n, n));
        let (q, k) = (keys.queries(), keys.keys());
        gemm(&[Term::new(l, k)], &mut sums.dq, d, true, Par::One);
        let parts = [Term::new(l.t(), q), Term::new(m, k), Term::new(m.t(), k)];
        gemm(&parts, &mut sums.dk, d, true, Par::One);

        // The state's own gradient; z is free.
        scale_rows(&dout, &gates.shown[..n], &mut z, dv);
        scale(to_state, gates.rest);
        let parts = [Term::new(q.t(), Mat::new(&z[..], n, dv)), Term::new(k.t(), of_read)];
        gemm(&parts, to_state, dv, true, Par::One);

        let mut sum = 0.0;
        for i in (0..n).rev() {
            sum += slopes[i];
            let (column, at) = (start + i, (start + i) * heads.value_heads + head);
            let value = column * heads.width() + self.sizes.value(head);
            // SAFETY: every (column, head) belongs to one task.
            unsafe {
                self.to_gates[0].slice(at, 1)[0] = sum as f32;
                self.to_gates[1].slice(at, 1)[0] = to_beta[i];
                add_scaled_to(self.to_qkv.slice(value, dv), &dnews[i * dv..][..dv], gates.beta[i]);
            }
        }
    }

    /// Gradients to queries and keys before they were normalized.
    fn write(&self, keys: &Keys, start: usize, sums: &Sums) {
        let (heads, d) = (self.sizes.heads, keys.d);
        for i in 0..keys.n {
            let (row, column) = (i * d..(i + 1) * d, (start + i) * heads.width());
            // SAFETY: every (column, head) belongs to one task.
            let [dq, dk] = [self.sizes.query(self.key_head), self.sizes.key(self.key_head)]
                .map(|place| unsafe { self.to_qkv.slice(column + place, d) });
            // A query's length is 1/√d.
            unnormalize(&keys.q[row.clone()], &sums.dq[row.clone()], keys.q_by[i], d as f32, dq);
            unnormalize(&keys.k[row.clone()], &sums.dk[row], keys.k_by[i], 1.0, dk);
        }
    }
}

multiversion! {
    fn add_scaled(to: &mut [f32], x: &[f32], by: f32) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to += by * x);
    }
    fn add_scaled_to(to: &mut [f32], x: &[f32], by: f32) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = by * x);
    }
    /// One row: dA to M, dB to dB ∘ D, dA ∘ A + dB ∘ B to `along`; the part of dβ that is in A. The last column is the diagonal, which A has not.
    fn pull(
        da: &mut [f32],
        db: &mut [f32],
        system: &[f32],
        within: &[f32],
        pairs: &[f32],
        kk: &[f32],
        beta: f32,
        along: &mut [f32],
    ) -> f32 {
        let last = da.len() - 1;
        da[last] = 0.0;
        let to_beta = math::sum(last, |j| da[j] * kk[j] * pairs[j]);
        for j in 0..=last {
            along[j] = da[j] * system[j] + db[j] * within[j];
            da[j] *= beta * pairs[j];
            db[j] *= pairs[j];
        }
        to_beta
    }
    /// dx of y = by(x) x, whose square is `1 / over` long: `by (dy - over y (y·dy))`.
    fn unnormalize(y: &[f32], dy: &[f32], by: f32, over: f32, dx: &mut [f32]) {
        let along = over * math::dot(y, dy);
        for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = by * (dy - y * along);
        }
    }
}
