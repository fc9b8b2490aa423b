//! Several LoRA adapters as one: PEFT's `add_weighted_adapter`.
//!
//! TIES: Yadav et al. 2023, arXiv:2306.01708. DARE: Yu et al. 2023, arXiv:2311.03099.

use std::collections::BTreeSet;

use burn::linalg::{qr, svd};
use burn::tensor::{DType, FloatDType, Tensor, TensorData, s};
use rand::RngExt;

use super::{Pair, PlainLora};
use crate::error::{Error, Result};
use ft_seed::stream;

/// Jacobi sweeps of the singular value decomposition; convergence takes well under half of them.
const SWEEPS: usize = 30;

/// How values at one position become one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Weighted sum.
    #[default]
    Linear,
    /// The matrices beside each other: exactly the weighted sum of the adapters, with the sum of their ranks.
    Cat,
    /// Trim to the largest values, elect a sign, average what agrees with it.
    Ties,
    /// Drop at random, rescale, weighted sum.
    DareLinear,
    /// Drop at random, rescale, elect a sign, average what agrees with it.
    DareTies,
    /// Trim to the largest values, weighted sum.
    MagnitudePrune,
}

/// Which sign wins at a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MajoritySign {
    /// That of the sum.
    #[default]
    Total,
    /// That of most values.
    Frequency,
}

/// How adapters are combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combination {
    /// What is done at each position.
    pub method: Method,
    /// Do it to the products `s B A` and take their best approximation of rank [`rank`](Self::rank), instead of doing it to
    /// A and B apart (PEFT's `.._svd`).
    pub svd: bool,
    /// Rank of the result with [`svd`](Self::svd); the largest of the adapters when `None`.
    pub rank: Option<usize>,
    /// Share of the values that is kept, for all methods that trim or drop.
    pub density: f64,
    /// How TIES elects.
    pub majority_sign: MajoritySign,
    /// Of what DARE drops.
    pub seed: u64,
}

impl Default for Combination {
    fn default() -> Self {
        Self {
            method: Method::Linear,
            svd: false,
            rank: None,
            density: 0.5,
            majority_sign: MajoritySign::Total,
            seed: 0,
        }
    }
}

/// One adapter that stands for the weighted adapters together. A place that only some of them adapt is combined from those.
///
/// # Errors
/// [`Error::Config`] names the option: no adapters, other bases, shapes that differ, ranks that differ where A and B are
/// combined apart, a density outside 0 to 1.
pub fn combine(adapters: &[(PlainLora, f64)], how: &Combination) -> Result<PlainLora> {
    check(adapters, how)?;
    let first = &adapters[0].0;
    let rank = match how.method {
        Method::Cat => adapters.iter().map(|(adapter, _)| adapter.rank()).sum(),
        _ => largest(adapters),
    };
    let paths: BTreeSet<&String> = adapters.iter().flat_map(|(adapter, _)| adapter.pairs.keys()).collect();
    let place = |path: &String| {
        let parts: Vec<(&Pair, f64)> = adapters
            .iter()
            .filter_map(|(adapter, weight)| Some((adapter.pairs.get(path)?, *weight)))
            .collect();
        let pair = match how {
            Combination {
                method: Method::Cat, ..
            } => beside(&parts),
            Combination { svd: true, .. } => decomposed(&parts, how, how.rank.unwrap_or(rank), path),
            _ => apart(&parts, how, path),
        };
        (path.clone(), pair)
    };
    let lists = adapters.iter().map(|(adapter, _)| adapter.modules.clone());
    let lists: Option<Vec<Vec<String>>> = lists.collect();
    Ok(PlainLora {
        base_model: first.base_model.clone(),
        fan_in_fan_out: first.fan_in_fan_out,
        modules: lists.map(|lists| {
            lists
                .into_iter()
                .flatten()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect()
        }),
        pairs: paths.into_iter().map(place).collect(),
    })
}

fn largest(adapters: &[(PlainLora, f64)]) -> usize {
    adapters.iter().map(|(adapter, _)| adapter.rank()).max().unwrap_or(0)
}

fn check(adapters: &[(PlainLora, f64)], how: &Combination) -> Result<()> {
    let wrong = |key: &str, why: String| Err(Error::Config { key: key.into(), why });
    let Some((first, _)) = adapters.first() else {
        return wrong("adapters", "at least one is needed".into());
    };
    if !(0.0..=1.0).contains(&how.density) {
        return wrong("density", format!("must be between 0 and 1, got {}", how.density));
    }
    if let Some((_, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
        return wrong("weights", format!("must be finite, got {weight}"));
    }
    if how.svd && how.method == Method::Cat {
        return wrong("svd", "does not go with cat, which is exact already".into());
    }
    if how.rank == Some(0) {
        return wrong("rank", "must be at least 1".into());
    }
    for (other, _) in adapters {
        if let Some((path, why)) = misfit(first, other) {
            return wrong("adapters", format!("do not fit together: {path} {why}"));
        }
        let matching = how.svd || how.method == Method::Cat;
        let ranks = |path: &String| Some((first.pairs.get(path)?.rank(), other.pairs.get(path)?.rank()));
        if let Some((a, b)) = other.pairs.keys().filter_map(ranks).find(|(a, b)| !matching && a != b) {
            let why = format!("A and B of ranks {a} and {b} cannot be combined apart; use cat, or a method with svd");
            return wrong("method", why);
        }
    }
    Ok(())
}

/// Where two adapters cannot belong to one base.
fn misfit<'a>(first: &PlainLora, other: &'a PlainLora) -> Option<(&'a String, String)> {
    other.pairs.iter().find_map(|(path, pair)| {
        let (mine, theirs) = (first.pairs.get(path)?.dims(), pair.dims());
        (mine != theirs).then(|| (path, format!("is {mine:?} in one and {theirs:?} in another")))
    })
}

/// `A = [w s A; ..]`, `B = [B ..]`.
fn beside(parts: &[(&Pair, f64)]) -> Pair {
    let a = parts
        .iter()
        .map(|(pair, weight)| pair.a.clone().mul_scalar(weight * pair.scale));
    let b = parts.iter().map(|(pair, _)| pair.b.clone());
    Pair {
        a: Tensor::cat(a.collect(), 0),
        b: Tensor::cat(b.collect(), 1),
        scale: 1.0,
        embedding: parts[0].0.embedding,
    }
}

/// A and B each combined, with weights √|w s|, the sign on A.
fn apart(parts: &[(&Pair, f64)], how: &Combination, path: &str) -> Pair {
    let root = |pair: &Pair, weight: f64| (weight * pair.scale).abs().sqrt();
    let sign = |pair: &Pair, weight: f64| if weight * pair.scale < 0.0 { -1.0 } else { 1.0 };
    let a: Vec<_> = parts
        .iter()
        .map(|(pair, w)| (pair.a.clone(), root(pair, *w) * sign(pair, *w)))
        .collect();
    let b: Vec<_> = parts.iter().map(|(pair, w)| (pair.b.clone(), root(pair, *w))).collect();
    Pair {
        a: arithmetic(&a, how, &format!("{path}/a")),
        b: arithmetic(&b, how, &format!("{path}/b")),
        scale: 1.0,
        embedding: parts[0].0.embedding,
    }
}

/// The products combined, and the best approximation of rank `rank` to the result: `B = U S`, `A = Vᵀ`.
fn decomposed(parts: &[(&Pair, f64)], how: &Combination, rank: usize, path: &str) -> Pair {
    let (a, b) = match how.method {
        Method::Linear => low_rank(beside(parts), rank),
        _ => {
            let product = |pair: &Pair| pair.b.clone().matmul(pair.a.clone()).mul_scalar(pair.scale);
            let deltas: Vec<_> = parts.iter().map(|(pair, weight)| (product(pair), *weight)).collect();
            truncated(arithmetic(&deltas, how, path), rank)
        }
    };
    Pair {
        a,
        b,
        scale: 1.0,
        embedding: parts[0].0.embedding,
    }
}

/// [`truncated`] for `b a`, through their QR decompositions: nothing of the size of the product is decomposed.
fn low_rank(pair: Pair, rank: usize) -> (Tensor<2>, Tensor<2>) {
    let [out, inner] = pair.dims();
    if pair.rank() >= out.min(inner) {
        return truncated(pair.b.matmul(pair.a), rank);
    }
    // Burn's decomposition computes in f32.
    let [(left, core_left), (right, core_right)] = [pair.b, pair.a.transpose()]
        .map(|matrix| qr(matrix, true))
        .map(|(q, r)| (exact(q), exact(r)));
    let (a, b) = truncated(core_left.matmul(core_right.transpose()), rank);
    let single = |t: Tensor<2>| t.cast(FloatDType::F32);
    (
        single(exact(a).matmul(right.transpose())),
        single(left.matmul(exact(b))),
    )
}

/// `(Vᵀ, U S)` of the first `rank` singular triplets, with zeros where the matrix has fewer.
fn truncated(matrix: Tensor<2>, rank: usize) -> (Tensor<2>, Tensor<2>) {
    let [out, inner] = matrix.dims();
    let device = matrix.device();
    let (u, values, vt) = svd::<2, 1>(exact(matrix), SWEEPS);
    let have = rank.min(out.min(inner));
    let b = u.slice(s![.., 0..have]) * values.slice(s![0..have]).unsqueeze_dim::<2>(0);
    let a = vt.slice(s![0..have, ..]);
    let (a, b) = (a.cast(FloatDType::F32), b.cast(FloatDType::F32));
    if have == rank {
        return (a, b);
    }
    (
        Tensor::cat(vec![a, Tensor::zeros([rank - have, inner], &device)], 0),
        Tensor::cat(vec![b, Tensor::zeros([out, rank - have], &device)], 1),
    )
}

/// The matrix in the most exact type its device has.
fn exact(matrix: Tensor<2>) -> Tensor<2> {
    let wide = matrix.device().supports_dtype(DType::F64);
    matrix.cast(if wide { FloatDType::F64 } else { FloatDType::F32 })
}

/// The weighted matrices as one, position by position.
fn arithmetic(parts: &[(Tensor<2>, f64)], how: &Combination, name: &str) -> Tensor<2> {
    let shape = parts[0].0.dims();
    let device = parts[0].0.device();
    let mut values: Vec<Vec<f32>> = parts.iter().map(|(tensor, _)| host(tensor)).collect();
    for (index, values) in values.iter_mut().enumerate() {
        match how.method {
            Method::Linear | Method::Cat => {}
            Method::Ties | Method::MagnitudePrune => trim(values, how.density),
            Method::DareLinear | Method::DareTies => drop_out(values, how, &format!("{name}/{index}")),
        }
    }
    let elects = matches!(how.method, Method::Ties | Method::DareTies);
    let weights: Vec<f32> = parts.iter().map(|(_, weight)| *weight as f32).collect();
    let position = |i: usize| {
        let column = values.iter().map(|values| values[i]);
        let weighted = column.clone().zip(&weights);
        if !elects {
            return weighted.map(|(value, weight)| value * weight).sum::<f32>();
        }
        let elected = elect(column, how.majority_sign);
        let agreeing = weighted.filter(|(value, _)| sign(*value) == elected);
        let (sum, count) = agreeing.fold((0.0, 0.0f32), |(sum, n), (value, weight)| {
            (sum + value * weight, n + 1.0)
        });
        sum / count.max(1.0)
    };
    let combined: Vec<f32> = (0..shape[0] * shape[1]).map(position).collect();
    Tensor::from_data(TensorData::new(combined, shape), &device)
}

fn host(tensor: &Tensor<2>) -> Vec<f32> {
    let data = tensor.to_data().convert_dtype(DType::F32);
    data.try_into_vec().expect("converted to f32")
}

/// -1, 0 or 1.
fn sign(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

/// The sign that wins; a draw goes to plus.
fn elect(column: impl Iterator<Item = f32>, by: MajoritySign) -> f32 {
    let sum: f32 = match by {
        MajoritySign::Total => column.sum(),
        MajoritySign::Frequency => column.map(sign).sum(),
    };
    if sum >= 0.0 { 1.0 } else { -1.0 }
}

/// SavedActivations the share `density` of the values that are largest in magnitude.
fn trim(values: &mut [f32], density: f64) {
    let keep = (density * values.len() as f64) as usize;
    if keep >= values.len() {
        return;
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
    for index in &order[keep..] {
        values[*index] = 0.0;
    }
}

/// SavedActivations each value with probability `density`, and divides it by that.
fn drop_out(values: &mut [f32], how: &Combination, name: &str) {
    if how.density >= 1.0 {
        return;
    }
    let mut rng = stream(how.seed, &format!("combine/{name}"));
    for value in values {
        let kept = rng.random_bool(how.density);
        *value = if kept { *value / how.density as f32 } else { 0.0 };
    }
}

#[cfg(test)]
mod tests;
