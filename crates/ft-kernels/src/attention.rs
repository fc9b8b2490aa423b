//! Causal attention with grouped key and value heads.
use burn::tensor::{Bool, FloatDType, Int, Tensor};

/// Which keys a query sees. Query `i` of a call sits at key column `prefix + offset + i`.
///
/// It sees key `j` iff `j < prefix`, or
/// `prefix + max(first[b, i], i + offset + 1 - window) <= j <= prefix + offset + i`.
#[derive(Debug, Clone, Default)]
pub struct Mask {
    /// Key columns (after the prefix) that precede the first query: the length of the cache.
    pub offset: usize,
    /// Sliding window: a query sees at most this many columns, itself included.
    pub window: Option<usize>,
    /// `[b, s]`: first visible column of every query (left padding, packed samples); 0 by default.
    pub first: Option<Tensor<2, Int>>,
    /// Learned columns in front that every query sees.
    pub prefix: usize,
}

/// `softmax(scale · q·kᵀ + mask) · v`: q `[b, s, hq, d]`, k and v `[b, t, hkv, d]` -> `[b, s, hq, d]`.
///
/// Query head `h` reads key head `h / (hq / hkv)`. A query that sees nothing gives zeros.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Mask, scale: f64) -> Tensor<4> {
    let [b, s, hq, d] = q.dims();
    let [_, t, hkv, _] = k.dims();
    let groups = hq / hkv;
    let dtype = FloatDType::from(q.dtype());
    let q = q
        .reshape([b, s, hkv, groups, d])
        .permute([0, 2, 3, 1, 4])
        .reshape([b, hkv, groups * s, d]);
    let k = k.permute([0, 2, 3, 1]); // [b, hkv, d, t]
    let v = v.permute([0, 2, 1, 3]); // [b, hkv, t, d]
    let scores = q
        .matmul(k)
        .cast(FloatDType::F32)
        .mul_scalar(scale)
        .reshape([b, hkv, groups, s, t]);
    let hidden = hidden(mask, b, s, t, &scores.device());
    let hidden = hidden
        .reshape([-1, 1, 1, s as i64, t as i64])
        .expand([b, hkv, groups, s, t]);
    let scores = scores.mask_fill(hidden.clone(), -1e30);
    let max = scores.clone().detach().max_dim(4);
    let p = (scores - max).exp().mask_fill(hidden, 0.0);
    let p = p.clone() / p.sum_dim(4).clamp_min(1e-30);
    let out = p.cast(dtype).reshape([b, hkv, groups * s, t]).matmul(v); // [b, hkv, groups*s, d]
    out.reshape([b, hkv, groups, s, d])
        .permute([0, 3, 1, 2, 4])
        .reshape([b, s, hq, d])
}

/// `[b or 1, s, t]`: true where a key is not visible.
fn hidden(mask: &Mask, b: usize, s: usize, t: usize, device: &burn::tensor::Device) -> Tensor<3, Bool> {
    let device = &device.clone().inner();
    let prefix = mask.prefix as i64;
    let cols = Tensor::<1, Int>::arange(0..t as i64, device)
        .sub_scalar(prefix)
        .reshape([1, 1, t]);
    let last = Tensor::<1, Int>::arange(0..s as i64, device)
        .add_scalar(mask.offset as i64)
        .reshape([1, s, 1]);
    let mut hidden = cols.clone().expand([1, s, t]).greater(last.clone().expand([1, s, t]));
    if let Some(window) = mask.window {
        let low = last.add_scalar(1 - window as i64);
        hidden = hidden.bool_or(cols.clone().expand([1, s, t]).lower(low.expand([1, s, t])));
    }
    if let Some(first) = &mask.first {
        let low = first.clone().reshape([b, s, 1]).expand([b, s, t]);
        hidden = hidden
            .expand([b, s, t])
            .bool_or(cols.clone().expand([b, s, t]).lower(low));
    }
    let rows = hidden.dims()[0];
    hidden.bool_and(cols.greater_equal_elem(0).expand([rows, s, t]))
}
