//! Changes of matrices as LoRA: the nearest product of a rank (Eckart and Young 1936), and without what training put in the way of what the
//! base knew (Shuttleworth et al. 2024, arXiv:2410.21228).

use burn::module::Param;
use burn::tensor::{FloatDType, Tensor, s};

use crate::error::{Error, Result};
use crate::methods::Delta;
use crate::methods::lora::{Lora, LoraConfig};
use crate::patterns::Patterns;
use crate::svd::{is_zero, leading, svd};
use crate::targets::Targets;

/// What is kept of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// So many singular directions, or all where there are fewer.
    Rank(usize),
    /// As many as hold this share of the sum of all squared singular values, above 0 and at most 1.
    Energy(f64),
}

impl Keep {
    /// Fails for what keeps nothing, or more than all.
    pub fn check(self) -> Result<()> {
        let wrong = |key: &str, why: String| Err(Error::Config { key: key.into(), why });
        match self {
            Keep::Rank(0) => wrong("rank", "must be at least 1".into()),
            Keep::Energy(share) if !(share > 0.0 && share <= 1.0) => {
                wrong("energy", format!("must be a share above 0 and at most 1, got {share}"))
            }
            _ => Ok(()),
        }
    }
}

/// A change `[out, in]` as a product.
#[derive(Clone, Debug)]
pub struct Truncated {
    /// `[r, in]`.
    pub a: Tensor<2>,
    /// `[out, r]`.
    pub b: Tensor<2>,
    /// ‖ΔW‖, Frobenius.
    pub norm: f64,
    /// ‖ΔW - B A‖.
    pub error: f64,
}

impl Truncated {
    /// r.
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// `error` over `norm`; 0 of nothing.
    pub fn relative_error(&self) -> f64 {
        if self.norm > 0.0 { self.error / self.norm } else { 0.0 }
    }

    /// The adapter of the module at `path`, with scale 1.
    pub fn into_delta(self, path: &str) -> Delta {
        Delta::Lora(Lora {
            a: Param::from_tensor(self.a),
            b: Param::from_tensor(self.b),
            bias: None,
            start: None,
            earlier: None,
            scale: 1.0,
            dropout: 0.0,
            salt: ft_seed::salt(path),
        })
    }
}

/// The product `B A` nearest to the change `[out, in]`, both factors with a root of each singular value.
pub fn truncated(change: Tensor<2>, keep: Keep) -> Truncated {
    let change = change.detach().without_autodiff().cast(FloatDType::F32);
    let norm = length(change.clone());
    let all = change.dims().into_iter().min().unwrap_or(0);
    let found = match keep {
        Keep::Rank(rank) => leading(change.clone(), rank.min(all)),
        Keep::Energy(share) => enough(&change, norm, share, all),
    };
    let root = found.s.sqrt();
    let a = root.clone().unsqueeze_dim::<2>(1) * found.vt;
    let b = found.u * root.unsqueeze_dim::<2>(0);
    let error = length(change - b.clone().matmul(a.clone()));
    Truncated { a, b, norm, error }
}

/// The fewest singular directions that hold `share` of the squared norm.
fn enough(change: &Tensor<2>, norm: f64, share: f64, all: usize) -> crate::svd::Svd {
    const FIRST: usize = 16;
    let mut looked = FIRST.min(all);
    loop {
        let found = leading(change.clone(), looked);
        let values: Vec<f64> = found.s.to_data().iter::<f64>().collect();
        let squares = values.iter().map(|value| value * value);
        let mut sum = 0.0;
        let held = squares.take_while(|square| {
            let short = sum < share * norm * norm;
            sum += if short { *square } else { 0.0 };
            short
        });
        let rank = held.count().max(1);
        if sum >= share * norm * norm || looked == all {
            return found.narrowed(rank);
        }
        looked = (4 * looked).min(all);
    }
}

/// Square root of the sum of squares, summed in f64 where the device has it.
fn length(matrix: Tensor<2>) -> f64 {
    let rows: Tensor<2> = matrix.powi_scalar(2).sum_dim(1);
    rows.to_data().iter::<f64>().sum::<f64>().sqrt()
}

/// How intruder dimensions are found and reduced: singular directions of the tuned matrix that are like none of the base's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intruders {
    /// How many of the largest directions of the tuned matrix are looked at.
    pub top_k: usize,
    /// One is an intruder whose cosine with every direction of the base is below this.
    pub threshold: f64,
    /// What is left of an intruder: 0 takes it out, 1 leaves it.
    pub keep: f64,
}

impl Default for Intruders {
    /// PEFT's.
    fn default() -> Self {
        Self {
            top_k: 10,
            threshold: 0.5,
            keep: 0.75,
        }
    }
}

impl Intruders {
    /// The change `[out, in]` of the base's matrix with its intruders reduced, and which directions of the tuned matrix they are.
    pub fn reduced(&self, weight: Tensor<2>, change: Tensor<2>) -> (Tensor<2>, Vec<usize>) {
        if is_zero(change.clone()) {
            return (change, Vec::new());
        }
        let base = svd(weight.clone());
        let tuned = svd(weight + change.clone());
        let looked = self.top_k.min(tuned.s.dims()[0]);
        let u = tuned.u.slice(s![.., 0..looked]);
        let cosines = u.clone().transpose().matmul(base.u).abs().max_dim(1); // [looked, 1]
        let cosines: Vec<f64> = cosines.into_data().iter::<f64>().collect();
        let found: Vec<usize> = (0..looked).filter(|at| cosines[*at] < self.threshold).collect();
        let mut reduced = change;
        for at in &found {
            let direction = u.clone().narrow(1, *at, 1).matmul(tuned.vt.clone().narrow(0, *at, 1));
            let value = tuned.s.clone().narrow(0, *at, 1).into_scalar::<f32>();
            reduced = reduced + direction.mul_scalar(f64::from(value) * (self.keep - 1.0));
        }
        (reduced, found)
    }
}

/// The options of an adapter that has these ranks at its modules, at scale 1, beside whole modules.
pub fn config(ranks: &[(String, usize)], whole: &[String]) -> LoraConfig {
    let rank = ranks.iter().map(|(_, rank)| *rank).max().unwrap_or(1);
    let others = || ranks.iter().filter(move |(_, own)| *own != rank);
    LoraConfig {
        rank,
        alpha: rank as f64,
        rank_pattern: Patterns(others().cloned().collect()),
        alpha_pattern: Patterns(others().map(|(path, own)| (path.clone(), *own as f64)).collect()),
        targets: Targets::Suffixes(ranks.iter().map(|(path, _)| path.clone()).collect()),
        modules_to_save: whole.to_vec(),
        ..LoraConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// A matrix with these singular values, by reflections on both sides.
    fn with_values(values: &[f32], [rows, columns]: [usize; 2]) -> Tensor<2> {
        let device = Device::flex();
        let reflection = |n: usize, salt: f32| {
            let v: Vec<f32> = (0..n).map(|i| ((i as f32 + 1.0) * salt).sin()).collect();
            let v = Tensor::<2>::from_data(TensorData::new(v, [n, 1]), &device);
            let square = v.clone().powi_scalar(2).sum().into_scalar::<f32>();
            Tensor::eye(n, &device) - v.clone().matmul(v.transpose()).mul_scalar(2.0 / square)
        };
        let k = values.len();
        let middle = Tensor::<1>::from_floats(values, &device).unsqueeze_dim::<2>(0);
        let u = reflection(rows, 0.7).narrow(1, 0, k) * middle;
        u.matmul(reflection(columns, 1.3).narrow(0, 0, k))
    }

    #[test]
    fn the_error_is_what_the_dropped_values_are() {
        for shape in [[12, 7], [7, 12], [400, 300]] {
            let change = with_values(&[4.0, 3.0, 2.0, 1.0], shape);
            let two = truncated(change.clone(), Keep::Rank(2));
            assert_eq!(two.rank(), 2);
            assert!((two.norm - 30f64.sqrt()).abs() < 1e-4, "{}", two.norm);
            assert!((two.error - 5f64.sqrt()).abs() < 1e-4, "{shape:?}: {}", two.error);
            assert!(truncated(change.clone(), Keep::Rank(4)).relative_error() < 1e-5);
            for (share, rank) in [(0.5, 1), (0.6, 2), (0.9, 3), (0.999, 4)] {
                assert_eq!(truncated(change.clone(), Keep::Energy(share)).rank(), rank, "{share}");
            }
        }
    }

    #[test]
    fn many_directions_are_enough_for_a_large_share() {
        let values: Vec<f32> = (0..80).map(|i| 1.0 + 0.01 * i as f32).rev().collect();
        let change = with_values(&values, [300, 280]);
        let squares: Vec<f64> = values.iter().map(|v| f64::from(*v).powi(2)).collect();
        let total: f64 = squares.iter().sum();
        let mut sum = 0.0;
        let wanted = squares.iter().take_while(|square| {
            let short = sum < 0.8 * total;
            sum += **square;
            short
        });
        let (wanted, found) = (wanted.count(), truncated(change, Keep::Energy(0.8)));
        assert_eq!(found.rank(), wanted);
        assert!(found.relative_error() < 0.2f64.sqrt());
    }

    #[test]
    fn nothing_is_a_product_of_rank_one_without_an_error() {
        let none = Tensor::zeros([5, 4], &Device::flex());
        let found = truncated(none, Keep::Energy(0.9));
        assert_eq!((found.rank(), found.error, found.relative_error()), (1, 0.0, 0.0));
    }

    #[test]
    fn a_direction_that_the_base_does_not_have_is_an_intruder() {
        let device = Device::flex();
        // The base knows the axes; the change adds a large direction between all of them.
        let base = Tensor::<2>::eye(16, &device);
        let between = Tensor::<2>::full([16, 1], 0.25, &device);
        let change = between.clone().matmul(between.transpose()).mul_scalar(5.0);
        let (reduced, found) = Intruders {
            top_k: 1,
            keep: 0.0,
            ..Intruders::default()
        }
        .reduced(base.clone(), change.clone());
        assert_eq!(found, [0]);
        // W + ΔW has the value 6 there, all of which is taken.
        let gone = (reduced - change.clone()).mul_scalar(-5.0 / 6.0);
        assert!((gone - change.clone()).abs().max().into_scalar::<f32>() < 1e-4);
        let (same, none) = Intruders {
            top_k: 1,
            threshold: 0.2,
            ..Intruders::default()
        }
        .reduced(base, change.clone());
        assert!(none.is_empty());
        assert_eq!((same - change).abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn ranks_that_differ_are_patterns() {
        let ranks = [("a.x".into(), 4), ("a.y".into(), 2), ("b.x".into(), 4)];
        let config = config(&ranks, &[]);
        assert_eq!((config.rank_at("a.x"), config.rank_at("a.y")), (4, 2));
        assert_eq!((config.scale_at("a.x"), config.scale_at("a.y")), (1.0, 1.0));
    }

    #[test]
    fn what_keeps_nothing_is_refused() {
        assert!(Keep::Rank(0).check().is_err());
        for share in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(Keep::Energy(share).check().is_err(), "{share}");
        }
        assert!(Keep::Energy(1.0).check().is_ok() && Keep::Rank(1).check().is_ok());
    }
}
