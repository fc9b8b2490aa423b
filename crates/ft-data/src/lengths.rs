//! Lengths of samples, and how well they fill the rows of a batch.

use serde::Serialize;

use crate::config::DataConfig;
use crate::order::Order;
use crate::pack::pack_rows;
use crate::sample::Sample;

/// Lengths of samples in tokens; of a pair, of its longer answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lengths {
    /// Their mean.
    pub mean: f64,
    /// The length that half of them do not exceed.
    pub median: usize,
    /// The length that 95 % of them do not exceed (nearest rank).
    pub p95: usize,
    /// The longest.
    pub longest: usize,
}

impl Lengths {
    /// Measures `samples`; all zero where there are none.
    pub fn measure(samples: &[Sample]) -> Lengths {
        let mut lengths: Vec<usize> = samples.iter().map(Sample::width).collect();
        lengths.sort_unstable();
        let rank = |percent: usize| {
            let at = (lengths.len() * percent).div_ceil(100).saturating_sub(1);
            lengths.get(at).copied().unwrap_or(0)
        };
        Lengths {
            mean: lengths.iter().sum::<usize>() as f64 / (lengths.len() as f64).max(1.0),
            median: rank(50),
            p95: rank(95),
            longest: rank(100),
        }
    }
}

/// Shares of the cells of a batch, rows times width.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Padding {
    /// Share of the cells that hold padding where every sample has a row of its own and those of similar length share batches.
    pub padded: f64,
    /// Share of the cells that hold tokens in rows of `max_length` that are filled best fit; none for pairs, which are not packed.
    pub packed: Option<f64>,
}

impl Padding {
    /// Over the first epoch of a run with this seed and so many samples in a forward pass. None where there are no samples.
    pub fn measure(samples: &[Sample], config: &DataConfig, batch_size: usize, seed: u64) -> Option<Padding> {
        let tokens: usize = samples.iter().map(Sample::tokens).sum();
        if tokens == 0 {
            return None;
        }
        let lengths: Vec<usize> = samples.iter().map(Sample::width).collect();
        let cells = |batch: &Vec<usize>| {
            let rows: usize = batch.iter().map(|i| samples[*i].rows()).sum();
            rows * batch.iter().map(|i| lengths[*i]).max().unwrap_or(0)
        };
        let batches = Order::epoch(&lengths, batch_size.max(1), seed, 0, config.shuffle);
        let padded: usize = batches.iter().map(cells).sum();
        let packed = samples.iter().all(|sample| sample.rows() == 1).then(|| {
            let rows = pack_rows(&lengths, config.max_length, config.shuffle.then_some(seed));
            tokens as f64 / (rows.len() as f64 * config.max_length as f64)
        });
        Some(Padding {
            padded: 1.0 - tokens as f64 / padded as f64,
            packed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(lengths: impl IntoIterator<Item = usize>) -> Vec<Sample> {
        lengths.into_iter().map(|n| Sample::answered(vec![1; n], 1)).collect()
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let lengths = Lengths::measure(&samples((1..=100).rev()));
        assert_eq!((lengths.median, lengths.p95, lengths.longest), (50, 95, 100));
        assert_eq!(lengths.mean, 50.5);
        let one = Lengths::measure(&samples([7]));
        assert_eq!((one.median, one.p95, one.longest), (7, 7, 7));
        assert_eq!(Lengths::measure(&[]).longest, 0);
    }

    #[test]
    fn shares_of_cells() {
        let mut config = DataConfig::new("x");
        (config.max_length, config.shuffle) = (8, false);
        let padding = Padding::measure(&samples([4, 2, 6, 8]), &config, 2, 1).unwrap();
        // Rows of 4 + 4 and 8 + 8 for 20 tokens; packed in order: 4 + 2, 6, 8.
        assert_eq!(padding.padded, 1.0 - 20.0 / 24.0);
        assert_eq!(padding.packed, Some(20.0 / 24.0));
        let pair = Sample::answered(vec![1; 4], 1).over(Sample::answered(vec![1; 2], 1));
        let pairs = Padding::measure(&[pair], &config, 2, 1).unwrap();
        assert_eq!((pairs.padded, pairs.packed), (0.25, None));
        assert_eq!(Padding::measure(&[], &config, 2, 1), None);
    }
}
