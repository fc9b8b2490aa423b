//! Samples of different lengths side by side, right padded.

use crate::{Preference, Sample};

/// A rectangle of token ids with the list of what is learned in it. Padding is known by length, never by token id, so a pad
/// token that equals EOS (or is missing) does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, row by row. Shape `[rows, width]`.
    pub ids: Vec<i32>,
    /// Sequences in the batch.
    pub rows: usize,
    /// Columns, padding included.
    pub width: usize,
    /// What the width is a multiple of.
    pub multiple: usize,
    /// Tokens of each row before its padding. Shape `[rows]`.
    pub lengths: Vec<usize>,
    /// Flat indices into `[rows * width]`: the hidden state at `positions[k]` predicts `targets[k]`. Shape `[learned]`.
    pub positions: Vec<i32>,
    /// The learned tokens, row by row. Shape `[learned]`.
    pub targets: Vec<i32>,
    /// The row of each of them. Shape `[learned]`.
    pub row_of: Vec<i32>,
    /// Rows of an example: 2 where every chosen answer is followed by the rejected one, else 1.
    pub group: usize,
    /// Whether an example's answer was called good, for all of them or none. Shape `[examples]`.
    pub labels: Vec<bool>,
    /// Numbers of the samples in their data set, where they are known. Shape `[examples]`.
    pub numbers: Vec<usize>,
}

impl Batch {
    /// Pads `samples` on the right with `pad` to the longest one, rounded up to a multiple of `multiple` columns (1 on a CPU; 64 on a
    /// GPU, so that kernels see few shapes).
    ///
    /// # Panics
    /// When `multiple` is 0 or the batch has 2³¹ cells or more.
    pub fn new(samples: &[&Sample], pad: u32, multiple: usize) -> Batch {
        let group = samples.first().map_or(1, |s| s.rows());
        debug_assert!(
            samples.iter().all(|s| s.rows() == group),
            "pairs and single samples in one batch"
        );
        let labels = samples.iter().filter_map(|sample| match sample.preference {
            Preference::Rated(good) => Some(good),
            _ => None,
        });
        let labels = labels.collect();
        let samples: Vec<&Sample> = samples.iter().flat_map(|sample| sample.sequences()).collect();
        let lengths: Vec<usize> = samples.iter().map(|s| s.len()).collect();
        let width = lengths.iter().copied().max().unwrap_or(0).next_multiple_of(multiple);
        let rows = samples.len();
        assert!(
            i32::try_from(rows * width).is_ok(),
            "a batch of {rows} x {width} tokens"
        );
        let mut batch = Batch {
            ids: vec![pad as i32; rows * width],
            rows,
            width,
            multiple,
            lengths,
            positions: Vec::new(),
            targets: Vec::new(),
            row_of: Vec::new(),
            group,
            labels,
            numbers: Vec::new(),
        };
        for (row, sample) in samples.iter().enumerate() {
            batch.fill_row(row, sample);
        }
        batch
    }

    /// The same with the numbers of its samples in their data set.
    pub fn numbered(self, numbers: &[usize]) -> Batch {
        Batch {
            numbers: numbers.to_vec(),
            ..self
        }
    }

    /// The first half of the examples and the rest, each as wide as before; none of a single example.
    pub fn halves(&self) -> Option<[Batch; 2]> {
        let (count, first) = (self.examples(), self.examples().div_ceil(2));
        (count > 1).then(|| [self.part(0, first), self.part(first, count)])
    }

    /// The examples `from..to`.
    fn part(&self, from: usize, to: usize) -> Batch {
        let some = |list: &[bool]| list.get(from..to).unwrap_or_default().to_vec();
        let (labels, numbers) = (
            some(&self.labels),
            self.numbers.get(from..to).unwrap_or_default().to_vec(),
        );
        let (from, to) = (from * self.group, to * self.group);
        let cells = from * self.width..to * self.width;
        let learned = self.positions.iter().zip(&self.targets);
        let inside = learned.filter(|(at, _)| cells.contains(&(**at as usize)));
        let (positions, targets) = inside.map(|(at, target)| (at - cells.start as i32, *target)).unzip();
        let rows = self.row_of.iter().filter(|row| (from..to).contains(&(**row as usize)));
        Batch {
            ids: self.ids[cells.clone()].to_vec(),
            rows: to - from,
            width: self.width,
            multiple: self.multiple,
            lengths: self.lengths[from..to].to_vec(),
            positions,
            targets,
            row_of: rows.map(|row| row - from as i32).collect(),
            group: self.group,
            labels,
            numbers,
        }
    }

    fn fill_row(&mut self, row: usize, sample: &Sample) {
        let first = row * self.width;
        for (column, &id) in sample.ids.iter().enumerate() {
            self.ids[first + column] = id as i32;
        }
        for column in (1..sample.len()).filter(|&c| sample.learn[c]) {
            self.positions.push((first + column - 1) as i32);
            self.targets.push(sample.ids[column] as i32);
            self.row_of.push(row as i32);
        }
    }

    /// Samples, or pairs of them.
    pub fn examples(&self) -> usize {
        self.rows / self.group
    }

    /// Tokens without padding.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Tokens that the loss covers.
    pub fn target_tokens(&self) -> usize {
        self.targets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ids: &[u32], mask: &str) -> Sample {
        Sample::new(ids.to_vec(), mask.chars().map(|c| c == 'x').collect())
    }

    #[test]
    fn pads_right_and_lists_targets() {
        let (a, b) = (sample(&[5, 6, 7], ".xx"), sample(&[8, 9], ".x"));
        let batch = Batch::new(&[&a, &b], 0, 1);
        assert_eq!((batch.rows, batch.width), (2, 3));
        assert_eq!(batch.ids, [5, 6, 7, 8, 9, 0]);
        assert_eq!(batch.positions, [0, 1, 3]);
        assert_eq!(batch.targets, [6, 7, 9]);
        assert_eq!((batch.tokens(), batch.target_tokens()), (5, 3));
    }

    #[test]
    fn pad_equal_to_eos_keeps_the_eos_target() {
        let eos = 2;
        let (a, b) = (sample(&[5, eos], ".x"), sample(&[5, 6, 7, eos], "...x"));
        let batch = Batch::new(&[&a, &b], eos, 1);
        assert_eq!(batch.ids, [5, 2, 2, 2, 5, 6, 7, 2]);
        assert_eq!(batch.positions, [0, 6], "the real EOS of both rows, no padding");
        assert_eq!(batch.targets, [2, 2]);
        assert_eq!(batch.lengths, [2, 4]);
    }

    #[test]
    fn halves_hold_every_row_and_target_once() {
        let samples = [
            sample(&[5, 6, 7], ".xx"),
            sample(&[8, 9], ".x"),
            sample(&[4, 3, 2], "..x"),
        ];
        let whole = Batch::new(&samples.iter().collect::<Vec<_>>(), 0, 1);
        let [first, rest] = whole.halves().unwrap();
        assert_eq!(first, Batch::new(&[&samples[0], &samples[1]], 0, 1));
        assert_eq!(rest, Batch::new(&[&samples[2]], 0, 1));
        assert_eq!(rest.halves(), None);
    }

    #[test]
    fn pairs_stand_row_by_row_and_are_never_parted() {
        let pair = |a: &[u32], b: &[u32]| sample(a, ".xx").over(sample(b, ".x"));
        let pairs = [pair(&[5, 6, 7], &[5, 9]), pair(&[4, 3, 2], &[4, 8])];
        let whole = Batch::new(&pairs.iter().collect::<Vec<_>>(), 0, 1).numbered(&[3, 8]);
        assert_eq!((whole.rows, whole.group, whole.examples()), (4, 2, 2));
        assert_eq!(whole.ids, [5, 6, 7, 5, 9, 0, 4, 3, 2, 4, 8, 0]);
        assert_eq!(whole.targets, [6, 7, 9, 3, 2, 8]);
        assert_eq!(whole.row_of, [0, 0, 1, 2, 2, 3]);
        let [first, rest] = whole.halves().unwrap();
        assert_eq!(first, Batch::new(&[&pairs[0]], 0, 1).numbered(&[3]));
        assert_eq!(rest, Batch::new(&[&pairs[1]], 0, 1).numbered(&[8]));
        assert_eq!(rest.halves(), None);
    }

    #[test]
    fn labels_go_with_their_examples() {
        let samples = [true, false, false].map(|good| sample(&[1, 2], ".x").rated(good));
        let whole = Batch::new(&samples.iter().collect::<Vec<_>>(), 0, 1);
        assert_eq!(whole.labels, [true, false, false]);
        let [first, rest] = whole.halves().unwrap();
        assert_eq!((first.labels, rest.labels), (vec![true, false], vec![false]));
    }

    #[test]
    fn width_is_rounded_up() {
        let a = sample(&[1; 65], &".".repeat(65));
        assert_eq!(Batch::new(&[&a], 0, 64).width, 128);
        assert_eq!(Batch::new(&[&a], 0, 1).width, 65);
        let none = Batch::new(&[], 0, 64);
        assert_eq!((none.rows, none.width, none.target_tokens()), (0, 0, 0));
    }
}
