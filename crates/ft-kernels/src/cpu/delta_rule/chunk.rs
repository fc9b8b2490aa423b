//! One chunk of one head: what forward and backward share.
//!
//! ```text
//!  G = cumsum(g)    Dᵢⱼ = e^(Gᵢ-Gⱼ)    E = e^G    F = e^(G(last)-G)    zero where a column does not see the other
//!  A = β (K Kᵀ ∘ D) below the diagonal    B = Q Kᵀ ∘ D on it and below
//!  Z = V - E (K S)    (I + A) N = β Z
//! ```
use super::{Row, Sizes};
use crate::cpu::gemm::{Mat, Par, Term, gemm};
use crate::cpu::isa::multiversion;
use crate::cpu::{math, scratch};
use crate::gated_delta_rule::{CHUNK, EPS};
use std::ops::Range;

/// Normalized queries (divided by √d) and keys of a key head's chunk, and their products, which all its value heads share.
pub(super) struct Keys {
    pub(super) n: usize,
    pub(super) d: usize,
    pub(super) q: scratch::Scratch,
    pub(super) k: scratch::Scratch,
    /// What a query and a key were multiplied with.
    pub(super) q_by: [f32; CHUNK],
    pub(super) k_by: [f32; CHUNK],
    /// `[n, n]`: K Kᵀ and Q Kᵀ.
    pub(super) kk: scratch::Scratch,
    pub(super) qk: scratch::Scratch,
}

impl Keys {
    /// Of `columns` of a row, whose numbers are `x` `[s, width]`.
    pub(super) fn new(x: &[f32], columns: Range<usize>, key_head: usize, sizes: &Sizes) -> Self {
        let (n, d, width) = (columns.len(), sizes.heads.key_dim, sizes.heads.width());
        let mut own = Self {
            n,
            d,
            q: scratch::take(n * d),
            k: scratch::take(n * d),
            q_by: [0.0; CHUNK],
            k_by: [0.0; CHUNK],
            kk: scratch::take(n * n),
            qk: scratch::take(n * n),
        };
        let scale = (d as f32).sqrt().recip();
        for (i, column) in columns.enumerate() {
            let at = |start: usize| &x[column * width + start..][..d];
            own.q_by[i] = normalize(at(sizes.query(key_head)), scale, &mut own.q[i * d..][..d]);
            own.k_by[i] = normalize(at(sizes.key(key_head)), 1.0, &mut own.k[i * d..][..d]);
        }
        let (q, k) = (Mat::new(&own.q[..], n, d), Mat::new(&own.k[..], n, d));
        gemm(&[Term::new(k, k.t())], &mut own.kk, n, false, Par::One);
        gemm(&[Term::new(q, k.t())], &mut own.qk, n, false, Par::One);
        own
    }

    pub(super) fn queries(&self) -> Mat<'_> {
        Mat::new(&self.q[..], self.n, self.d)
    }

    pub(super) fn keys(&self) -> Mat<'_> {
        Mat::new(&self.k[..], self.n, self.d)
    }
}

/// What the gates of a value head make of a chunk.
pub(super) struct Gates {
    /// β.
    pub(super) beta: [f32; CHUNK],
    /// E and F.
    pub(super) shown: [f32; CHUNK],
    pub(super) carried: [f32; CHUNK],
    /// What is left of the state.
    pub(super) rest: f32,
    /// `[n, n]`: D, A and B.
    pub(super) pairs: scratch::Scratch,
    pub(super) system: scratch::Scratch,
    pub(super) within: scratch::Scratch,
}

impl Gates {
    /// `decay` and `beta` are `[s, heads]` of a row.
    pub(super) fn new(
        keys: &Keys,
        [decay, beta]: [&[f32]; 2],
        columns: Range<usize>,
        [head, heads]: [usize; 2],
        row: Row<'_>,
    ) -> Self {
        let n = keys.n;
        let mut own = Self {
            beta: [0.0; CHUNK],
            shown: [0.0; CHUNK],
            carried: [0.0; CHUNK],
            rest: 0.0,
            pairs: scratch::take(n * n),
            system: scratch::take(n * n),
            within: scratch::take(n * n),
        };
        // In f64: small differences of large sums.
        let mut sums = [0.0f64; CHUNK];
        let mut sum = 0.0;
        for (i, column) in columns.clone().enumerate() {
            sum += f64::from(decay[column * heads + head]);
            sums[i] = sum;
            own.beta[i] = beta[column * heads + head];
        }
        let (start, last) = (columns.start, columns.end - 1);
        let before = start as i64 - 1;
        for i in 0..n {
            own.shown[i] = if row.sees(start + i, before) {
                sums[i].exp() as f32
            } else {
                0.0
            };
            own.carried[i] = match row.sees(last, (start + i) as i64) {
                true => (sum - sums[i]).exp() as f32,
                false => 0.0,
            };
            let line = i * n..(i + 1) * n;
            let first = row.first(start + i).saturating_sub(start as i64).clamp(0, i as i64 + 1) as usize;
            let (pairs, system, within) = (
                &mut own.pairs[line.clone()],
                &mut own.system[line.clone()],
                &mut own.within[line.clone()],
            );
            pairs[..first].fill(0.0);
            pairs[i + 1..].fill(0.0);
            for j in first..=i {
                pairs[j] = (sums[i] - sums[j]) as f32;
            }
            weigh(
                &mut pairs[first..=i],
                own.beta[i],
                &keys.kk[line.clone()][first..=i],
                &keys.qk[line][first..=i],
                &mut system[first..=i],
                &mut within[first..=i],
            );
            for line in [&mut *system, within] {
                line[..first].fill(0.0);
                line[i + 1..].fill(0.0);
            }
            system[i] = 0.0;
        }
        own.rest = if row.sees(last, before) { sum.exp() as f32 } else { 0.0 };
        own
    }

    /// Z into `z`, N into `news`, `[n, dv]` each: `x` are the numbers of the row, of which values begin at `value`.
    pub(super) fn solve(
        &self,
        keys: &Keys,
        state: Mat<'_>,
        (x, width, value): (&[f32], usize, usize),
        start: usize,
        z: &mut [f32],
        news: &mut [f32],
    ) {
        let (n, dv) = (keys.n, state.cols());
        gemm(&[Term::new(keys.keys(), state)], z, dv, false, Par::One);
        for i in 0..n {
            let v = &x[(start + i) * width + value..][..dv];
            let row = i * dv..(i + 1) * dv;
            correct(v, self.shown[i], self.beta[i], &mut z[row.clone()], &mut news[row]);
        }
        forward_substitution(&self.system, news, n, dv);
    }

    /// The state behind the chunk; `faded` `[n, dk]` is work memory.
    pub(super) fn carry(&self, keys: &Keys, news: &[f32], state: &mut [f32], faded: &mut [f32]) {
        let (n, d) = (keys.n, keys.d);
        let dv = news.len() / n;
        scale_rows(&keys.k, &self.carried[..n], faded, d);
        scale(state, self.rest);
        let term = Term::new(Mat::new(&*faded, n, d).t(), Mat::new(news, n, dv));
        gemm(&[term], state, dv, true, Par::One);
    }
}

/// `own -= Σ by(j) rows[j]` over `count` rows as long as `own`; sums stay in registers.
#[inline(always)]
fn subtract_rows(own: &mut [f32], rows: &[f32], by: impl Fn(usize) -> f32, count: usize) {
    const LANES: usize = math::LANES;
    let width = own.len();
    let whole = width / LANES * LANES;
    for from in (0..whole).step_by(LANES) {
        let mut sums = [0.0; LANES];
        for j in 0..count {
            let (by, other) = (by(j), &rows[j * width + from..][..LANES]);
            for l in 0..LANES {
                sums[l] += by * other[l];
            }
        }
        own[from..from + LANES].iter_mut().zip(&sums).for_each(|(x, s)| *x -= s);
    }
    for at in whole..width {
        own[at] -= (0..count).map(|j| by(j) * rows[j * width + at]).sum::<f32>();
    }
}

multiversion! {
    /// x times what makes it as long as `scale`, which is returned.
    pub(super) fn normalize(x: &[f32], scale: f32, out: &mut [f32]) -> f32 {
        let by = scale / (math::dot(x, x) + EPS as f32).sqrt();
        out.iter_mut().zip(x).for_each(|(o, x)| *o = by * x);
        by
    }
    /// Logarithms to D, and the products K Kᵀ and Q Kᵀ to A and B.
    fn weigh(pairs: &mut [f32], beta: f32, kk: &[f32], qk: &[f32], system: &mut [f32], within: &mut [f32]) {
        for ((((d, kk), qk), a), b) in pairs.iter_mut().zip(kk).zip(qk).zip(system).zip(within) {
            *d = math::exp(*d);
            *a = beta * kk * *d;
            *b = qk * *d;
        }
    }
    /// Z = V - E (K S), which `z` holds, and β Z.
    fn correct(v: &[f32], shown: f32, beta: f32, z: &mut [f32], news: &mut [f32]) {
        for ((v, z), r) in v.iter().zip(z).zip(news) {
            *z = v - shown * *z;
            *r = beta * *z;
        }
    }
    /// (I + A)⁻¹ x for x `[n, width]`.
    pub(super) fn forward_substitution(a: &[f32], x: &mut [f32], n: usize, width: usize) {
        for i in 1..n {
            let (before, own) = x.split_at_mut(i * width);
            subtract_rows(&mut own[..width], before, |j| a[i * n + j], i);
        }
    }
    /// (I + A)⁻ᵀ x.
    pub(super) fn backward_substitution(a: &[f32], x: &mut [f32], n: usize, width: usize) {
        for i in (0..n.saturating_sub(1)).rev() {
            let (own, after) = x.split_at_mut((i + 1) * width);
            subtract_rows(&mut own[i * width..], after, |l| a[(i + 1 + l) * n + i], n - 1 - i);
        }
    }
    /// Each row of x `[n, width]` times its factor.
    pub(super) fn scale_rows(x: &[f32], by: &[f32], out: &mut [f32], width: usize) {
        for ((x, by), out) in x.chunks_exact(width).zip(by).zip(out.chunks_exact_mut(width)) {
            out.iter_mut().zip(x).for_each(|(o, x)| *o = by * x);
        }
    }
    pub(super) fn scale(x: &mut [f32], by: f32) {
        x.iter_mut().for_each(|x| *x *= by);
    }
    pub(super) fn product(x: &[f32], y: &[f32]) -> f32 {
        math::dot(x, y)
    }
}
