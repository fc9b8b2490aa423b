//! A composition of Burn's operations in chunks of columns (the WY form of Yang et al. 2024, arXiv:2406.06484, section 3), right on every
//! backend and type, and differentiated by Burn.
//!
//! ```text
//!  G = cumsum(g)    Dᵢⱼ = exp(Gᵢ - Gⱼ) where i sees j    A = β (K Kᵀ ∘ D), strictly below the diagonal
//!  N = (I + A)⁻¹ β (V - eᴳ K S)    O = eᴳ Q S + (Q Kᵀ ∘ D) N    S' = e^G(last) S + (e^(G(last) - G) K)ᵀ N
//! ```
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor};

use super::{CHUNK, DeltaHeads, EPS};

/// What is hidden has this logarithm.
const HIDDEN: f64 = -1e30;

/// Outputs `[b, s, value heads, value dim]` and the state behind the last column.
pub(super) fn chunked(
    qkv: Tensor<3>,
    decay: Tensor<3>,
    beta: Tensor<3>,
    heads: DeltaHeads,
    first: Option<Tensor<2, Int>>,
    state: Option<Tensor<4>>,
) -> (Tensor<4>, Tensor<4>) {
    let ([b, s, _], own) = (qkv.dims(), qkv.dtype());
    let compute = FloatDType::from(if own == DType::F64 { own } else { DType::F32 });
    let size = s.min(CHUNK).next_power_of_two();
    let chunks = s.div_ceil(size);
    let DeltaHeads {
        key_heads,
        value_heads,
        key_dim,
        value_dim,
    } = heads;
    let part = |start: usize, count: usize, dim: usize| {
        let x = qkv.clone().narrow(2, start, count * dim).cast(compute);
        let x = filled(x, chunks * size).reshape([b, chunks * size, count, dim]);
        let x = match count == value_heads {
            true => x,
            false => x
                .unsqueeze_dim::<5>(3)
                .expand([b, chunks * size, count, value_heads / count, dim])
                .reshape([b, chunks * size, value_heads, dim]),
        };
        // [b, heads, chunks, size, dim]
        x.swap_dims(1, 2).reshape([b, value_heads, chunks, size, dim])
    };
    let q = unit(part(0, key_heads, key_dim)).mul_scalar((key_dim as f64).powf(-0.5));
    let k = unit(part(heads.keys(), key_heads, key_dim));
    let v = part(2 * heads.keys(), value_heads, value_dim);
    let column = |x: Tensor<3>| {
        let x = filled(x.cast(compute), chunks * size).swap_dims(1, 2);
        x.reshape([b, value_heads, chunks, size, 1])
    };
    let (decay, beta) = (column(decay), column(beta));
    let sight = Sight::new(first, [b, s], [chunks, size], &qkv.device());

    let lower = sight.lower.clone().float().cast(compute); // [1, 1, 1, size, size]
    let sums = lower.clone().matmul(decay); // [b, heads, chunks, size, 1]
    let last = sums.clone().narrow(3, size - 1, 1);
    let apart = sums.clone() - sums.clone().swap_dims(3, 4);
    let pairs = sight.pairs([b, value_heads, chunks, size, size]);
    let pairwise = apart.mask_fill(pairs, HIDDEN).exp();
    let within = q.clone().matmul(k.clone().swap_dims(3, 4)) * pairwise.clone();
    let below = lower - eye(size, &qkv.device()).cast(compute).reshape([1, 1, 1, size, size]);
    let system = k.clone().matmul(k.clone().swap_dims(3, 4)) * pairwise * beta.clone() * below;
    let inverse = inverse(system, size);
    let mut shown = sums.clone().exp();
    let mut carried = (last.clone() - sums).exp();
    let mut rest = last.exp();
    if let Some(limits) = &sight.limits {
        let [before, kept, before_last] = limits.clone().map(|x| x.cast(compute));
        (shown, carried, rest) = (shown * before, carried * kept, rest * before_last);
    }
    let mut state = match state {
        Some(state) => state.cast(compute),
        None => Tensor::zeros(
            [b, value_heads, key_dim, value_dim],
            (&qkv.device(), DType::from(compute)),
        ),
    };
    let mut outputs = Vec::with_capacity(chunks);
    for chunk in 0..chunks {
        let at = |x: &Tensor<5>| x.clone().narrow(2, chunk, 1).squeeze_dim::<4>(2);
        let (k, shown) = (at(&k), at(&shown));
        let known = k.clone().matmul(state.clone()) * shown.clone();
        let news = at(&inverse).matmul((at(&v) - known) * at(&beta));
        outputs.push(at(&q).matmul(state.clone()) * shown + at(&within).matmul(news.clone()));
        state = state * at(&rest) + (k * at(&carried)).swap_dims(2, 3).matmul(news);
    }
    let out = Tensor::cat(outputs, 2).narrow(2, 0, s).swap_dims(1, 2);
    (out.cast(FloatDType::from(own)), state)
}

/// x `[b, s, width]` with columns of zeros up to `columns`.
fn filled(x: Tensor<3>, columns: usize) -> Tensor<3> {
    let [b, s, width] = x.dims();
    match s == columns {
        true => x,
        false => {
            let rest = Tensor::zeros([b, columns - s, width], (&x.device(), x.dtype()));
            Tensor::cat(vec![x, rest], 1)
        }
    }
}

fn unit(x: Tensor<5>) -> Tensor<5> {
    let squares = (x.clone() * x.clone()).sum_dim(4);
    x / squares.add_scalar(EPS).sqrt()
}

fn eye(size: usize, device: &Device) -> Tensor<2> {
    Tensor::eye(size, device)
}

/// `(I + A)⁻¹` of matrices that are zero on the diagonal and above, block by block, from small to large ones.
fn inverse(system: Tensor<5>, size: usize) -> Tensor<5> {
    let (device, dtype) = (system.device(), FloatDType::from(system.dtype()));
    let mut inverse = eye(size, &device)
        .cast(dtype)
        .reshape([1, 1, 1, size, size])
        .expand(system.dims());
    let mut block = 1;
    while block < size {
        let row = Tensor::<1, Int>::arange(0..size as i64, &device);
        let (pair, own) = (row.clone().div_scalar(2 * block as i64), row.div_scalar(block as i64));
        let columns = |x: &Tensor<1, Int>| x.clone().reshape([1, size]).expand([size, size]);
        let rows = |x: &Tensor<1, Int>| x.clone().reshape([size, 1]).expand([size, size]);
        // Left of the diagonal blocks, inside of blocks twice as large.
        let beside = rows(&pair)
            .equal(columns(&pair))
            .bool_and(rows(&own).greater(columns(&own)));
        let beside = beside.float().cast(dtype).reshape([1, 1, 1, size, size]);
        inverse = inverse.clone() - inverse.clone().matmul(system.clone() * beside).matmul(inverse);
        block *= 2;
    }
    inverse
}

/// Which columns of a chunk see which.
struct Sight {
    /// `[1, 1, 1, size, size]`: the column of the row's number and those before it.
    lower: Tensor<5, Bool>,
    /// `[b, 1, chunks, size, size]`: columns of the row's document or after it.
    own: Option<Tensor<5, Bool>>,
    /// Whether a column sees what was before the chunk, `[b, 1, chunks, size, 1]`; whether the last one sees it; whether the last one
    /// sees what was before the chunk, `[b, 1, chunks, 1, 1]`.
    limits: Option<[Tensor<5>; 3]>,
}

impl Sight {
    fn new(first: Option<Tensor<2, Int>>, [b, s]: [usize; 2], [chunks, size]: [usize; 2], device: &Device) -> Self {
        let row = Tensor::<1, Int>::arange(0..size as i64, device);
        let rows = row.clone().reshape([size, 1]).expand([size, size]);
        let lower = rows.greater_equal(row.reshape([1, size]).expand([size, size]));
        let lower = lower.reshape([1, 1, 1, size, size]);
        let Some(first) = first else {
            return Self {
                lower,
                own: None,
                limits: None,
            };
        };
        let columns = chunks * size;
        let first = match columns == s {
            true => first,
            false => {
                let tail = first.clone().narrow(1, s - 1, 1).expand([b, columns - s]);
                Tensor::cat(vec![first, tail], 1)
            }
        };
        let first = first.reshape([b, 1, chunks, size, 1]);
        let column = Tensor::<1, Int>::arange(0..columns as i64, device).reshape([1, 1, chunks, 1, size]);
        let wide = |x: Tensor<5, Int>| x.expand([b, 1, chunks, size, size]);
        let own = wide(column.clone()).greater_equal(wide(first.clone()));
        let start = column.clone().narrow(4, 0, 1); // [1, 1, chunks, 1, 1]
        let before = first.clone().lower(start.clone().expand([b, 1, chunks, size, 1]));
        let last = first.narrow(3, size - 1, 1);
        let kept = column.swap_dims(3, 4).expand([b, 1, chunks, size, 1]);
        let kept = kept.greater_equal(last.clone().expand([b, 1, chunks, size, 1]));
        let before_last = last.lower(start.expand([b, 1, chunks, 1, 1]));
        Self {
            lower,
            own: Some(own),
            limits: Some([before, kept, before_last].map(|seen: Tensor<5, Bool>| seen.float())),
        }
    }

    /// The pairs that are hidden.
    fn pairs(&self, dims: [usize; 5]) -> Tensor<5, Bool> {
        let seen = self.lower.clone().expand(dims);
        let seen = match &self.own {
            None => seen,
            Some(own) => seen.bool_and(own.clone().expand(dims)),
        };
        seen.bool_not()
    }
}
