//! Which samples share a batch, and in what order batches come.

use ft_seed::{shuffle, stream, sub_seed};

/// The batches of an epoch, a pure function of its arguments: a resumed run finds its place again from `(seed, epoch, batch index)`,
/// and neither threads nor devices change it.
pub struct Order;

/// Samples are bucketed by length within groups of this many batches: enough to waste little padding, few enough that
/// every batch is still a random draw.
const GROUP: usize = 64;

impl Order {
    /// Indices into `lengths`, one list per batch; every sample exactly once, only the last batch of the data may be smaller.
    ///
    /// With `shuffle`, samples are permuted, sorted by length within groups of batches, and the batches permuted again. Without
    /// it, samples come in file order.
    ///
    /// ```
    /// let mut batches = ft_data::Order::epoch(&[3, 9, 4, 8], 2, 42, 0, true);
    /// batches.sort();
    /// assert_eq!(batches, [[1, 3], [2, 0]], "lengths 9 and 8, 4 and 3");
    /// ```
    ///
    /// # Panics
    /// When `batch_size` is 0.
    pub fn epoch(lengths: &[usize], batch_size: usize, seed: u64, epoch: u64, shuffle: bool) -> Vec<Vec<usize>> {
        assert!(batch_size > 0, "a batch holds at least one sample");
        let indices: Vec<usize> = (0..lengths.len()).collect();
        if !shuffle {
            return indices.chunks(batch_size).map(<[usize]>::to_vec).collect();
        }
        bucketed(indices, lengths, batch_size, sub_seed(seed, "data"), epoch)
    }
}

fn bucketed(mut indices: Vec<usize>, lengths: &[usize], batch_size: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut rng = stream(seed, &format!("epoch {epoch}"));
    shuffle(&mut indices, &mut rng);
    for group in indices.chunks_mut(batch_size.saturating_mul(GROUP)) {
        group.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    }
    let mut batches: Vec<Vec<usize>> = indices.chunks(batch_size).map(<[usize]>::to_vec).collect();
    shuffle(&mut batches, &mut rng);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(n: usize) -> Vec<usize> {
        (0..n).map(|i| 1 + (i * 7919) % 503).collect()
    }

    #[test]
    fn every_sample_once() {
        for shuffle in [true, false] {
            let batches = Order::epoch(&lengths(1003), 8, 1, 2, shuffle);
            assert_eq!(batches.len(), 126);
            assert_eq!(batches.iter().filter(|b| b.len() != 8).count(), 1);
            let mut all: Vec<usize> = batches.concat();
            all.sort_unstable();
            assert_eq!(all, (0..1003).collect::<Vec<_>>());
        }
    }

    #[test]
    fn depends_on_seed_and_epoch_only() {
        let order = |seed, epoch| Order::epoch(&lengths(300), 4, seed, epoch, true);
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        // Written down once: a saved run must find the same order in a later version.
        assert_eq!(
            Order::epoch(&[3, 1, 4, 1, 5, 9, 2, 6], 3, 7, 1, true),
            [vec![5, 7, 4], vec![3, 1], vec![2, 0, 6]]
        );
    }

    #[test]
    fn unshuffled_is_file_order() {
        assert_eq!(Order::epoch(&[5, 9, 1], 2, 3, 0, false), [vec![0, 1], vec![2]]);
        assert!(Order::epoch(&[], 2, 3, 0, true).is_empty());
    }

    #[test]
    fn buckets_waste_little_padding() {
        let lengths = lengths(4096);
        let padded = |batches: &[Vec<usize>]| -> usize {
            batches
                .iter()
                .map(|b| b.len() * b.iter().map(|&i| lengths[i]).max().unwrap())
                .sum()
        };
        let tokens: usize = lengths.iter().sum();
        let waste = padded(&Order::epoch(&lengths, 8, 1, 1, true)) as f64 / tokens as f64;
        let plain = padded(&Order::epoch(&lengths, 8, 1, 1, false)) as f64 / tokens as f64;
        assert!(waste < 1.05 && plain > 1.5, "bucketed {waste}, in file order {plain}");
    }
}
