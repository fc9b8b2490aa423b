//! Samples of different lengths in one rectangle, right padded.

use std::ops::Range;

use crate::teacher_batch::TeacherBatch;
use crate::{NO_CLASS, Preference, Sample};

/// A rectangle of token ids with the list of what is learned in it. A row holds one sequence, or several packed one behind the other,
/// which must not see each other. Padding is known by length, never by token id, so a pad token that equals EOS (or is missing) does
/// no harm.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Token ids, row by row. Shape `[rows, width]`.
    pub ids: Vec<i32>,
    /// Rows of the rectangle.
    pub rows: usize,
    /// Columns, padding included.
    pub width: usize,
    /// What the width is a multiple of.
    pub multiple: usize,
    /// Tokens of each sequence. Shape `[sequences]`.
    pub lengths: Vec<usize>,
    /// Flat index into `[rows * width]` of each sequence's first token, ascending. Shape `[sequences]`.
    pub starts: Vec<usize>,
    /// Flat indices into `[rows * width]`: the hidden state at `positions[k]` predicts `targets[k]`. Shape `[learned]`.
    pub positions: Vec<i32>,
    /// The target tokens, sequence by sequence. Shape `[learned]`.
    pub targets: Vec<i32>,
    /// The sequence of each of them. Shape `[learned]`.
    pub sequence_of: Vec<i32>,
    /// Sequences of an example: 2 where every chosen answer is followed by the rejected one, else 1.
    pub group: usize,
    /// Whether an example's answer was called good, for all of them or none. Shape `[examples]`.
    pub labels: Vec<bool>,
    /// What a head is to say of each sequence, or of each of its tokens, as [`Sample::label`] has it. Shape `[sequences]`.
    pub classes: Vec<Vec<f32>>,
    /// Whether it is of each token.
    pub tagged: bool,
    /// How many tokens of each sequence belong to the first of two texts; all where there is one. Shape `[sequences]`.
    pub firsts: Vec<usize>,
    /// Numbers of the samples in their data set, where they are known. Shape `[examples]`.
    pub numbers: Vec<usize>,
    /// The same samples as a teacher with another tokenizer reads them, where every one has that.
    pub teacher: Option<Box<TeacherBatch>>,
}

impl Batch {
    /// One sequence in a row: pads `samples` on the right with `pad` to the longest one, rounded up to a multiple of `multiple` columns
    /// (1 on a CPU; 64 on a GPU, so that kernels see few shapes).
    ///
    /// # Panics
    /// When `multiple` is 0 or the batch has 2³¹ cells or more.
    pub fn new(samples: &[&Sample], pad: u32, multiple: usize) -> Batch {
        let sequences = samples.iter().flat_map(|sample| sample.sequences());
        let rows: Vec<Vec<&Sample>> = sequences.map(|sequence| vec![sequence]).collect();
        Self::laid_out(samples, &rows, pad, multiple)
    }

    /// The samples of each of `rows` one behind the other, and padding behind the last.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn packed(rows: &[Vec<&Sample>], pad: u32, multiple: usize) -> Batch {
        let samples: Vec<&Sample> = rows.iter().flatten().copied().collect();
        let rows: Vec<Vec<&Sample>> = rows
            .iter()
            .map(|row| row.iter().flat_map(|sample| sample.sequences()).collect())
            .collect();
        Self::laid_out(&samples, &rows, pad, multiple)
    }

    /// `samples`, whose sequences lie in `rows` in the same order.
    pub(crate) fn laid_out(samples: &[&Sample], rows: &[Vec<&Sample>], pad: u32, multiple: usize) -> Batch {
        let group = samples.first().map_or(1, |s| s.rows());
        debug_assert!(
            samples.iter().all(|s| s.rows() == group),
            "pairs and single samples in one batch"
        );
        let labels = samples.iter().filter_map(|sample| match sample.preference {
            Preference::Rated(good) => Some(good),
            _ => None,
        });
        let tokens = |row: &Vec<&Sample>| row.iter().map(|s| s.len()).sum::<usize>();
        let width = rows.iter().map(tokens).max().unwrap_or(0).next_multiple_of(multiple);
        let cells = rows
            .len()
            .checked_mul(width)
            .filter(|cells| i32::try_from(*cells).is_ok());
        let cells = cells.unwrap_or_else(|| panic!("a batch of {} x {width} tokens", rows.len()));
        let mut batch = Batch {
            teacher: TeacherBatch::of(rows, multiple).map(Box::new),
            ids: vec![pad as i32; cells],
            rows: rows.len(),
            width,
            multiple,
            lengths: Vec::new(),
            starts: Vec::new(),
            positions: Vec::new(),
            targets: Vec::new(),
            sequence_of: Vec::new(),
            group,
            labels: labels.collect(),
            classes: Vec::new(),
            tagged: samples.iter().any(|sample| sample.is_tagged()),
            firsts: Vec::new(),
            numbers: Vec::new(),
        };
        for (row, sequences) in rows.iter().enumerate() {
            let mut start = row * width;
            for sequence in sequences {
                batch.place(start, sequence);
                start += sequence.len();
            }
        }
        batch
    }

    /// The next sequence, from the cell `start` on.
    fn place(&mut self, start: usize, sample: &Sample) {
        let sequence = self.lengths.len() as i32;
        for (column, &id) in sample.ids.iter().enumerate() {
            self.ids[start + column] = id as i32;
        }
        for column in sample.runs().flatten() {
            self.positions.push((start + column - 1) as i32);
            self.targets.push(sample.ids[column] as i32);
            self.sequence_of.push(sequence);
        }
        self.lengths.push(sample.len());
        self.firsts.push(if sample.second == 0 {
            sample.len()
        } else {
            sample.second
        });
        self.classes.push(sample.label());
        self.starts.push(start);
    }

    /// The same with the numbers of its samples in their data set.
    pub fn numbered(self, numbers: &[usize]) -> Batch {
        Batch {
            numbers: numbers.to_vec(),
            ..self
        }
    }

    /// Other sequences, as many as this batch has, in its rows; with token 0 behind them.
    pub fn with_sequences(&self, sequences: &[Sample]) -> Batch {
        let mut rows: Vec<Vec<&Sample>> = vec![Vec::new(); self.rows];
        for (sequence, start) in sequences.iter().zip(&self.starts) {
            rows[self.row(*start)].push(sequence);
        }
        Batch::packed(&rows, 0, self.multiple)
    }

    /// The columns at which the sequences of each row start; none where every row holds one.
    pub fn documents(&self) -> Option<Vec<Vec<usize>>> {
        if self.lengths.len() == self.rows {
            return None;
        }
        let mut rows = vec![Vec::new(); self.rows];
        for start in &self.starts {
            rows[self.row(*start)].push(start % self.width);
        }
        Some(rows)
    }

    /// Where the sequences of each row lie: the column of the first token, that of the second text (or the end), and the end.
    pub fn layout(&self) -> Vec<Vec<[usize; 3]>> {
        let mut rows = vec![Vec::new(); self.rows];
        for (sequence, start) in self.starts.iter().enumerate() {
            let column = start % self.width.max(1);
            let ends = [0, self.firsts[sequence], self.lengths[sequence]];
            rows[self.row(*start)].push(ends.map(|end| column + end));
        }
        rows
    }

    /// How many things a head is to say.
    pub fn labelled(&self) -> usize {
        let learned = |classes: &Vec<f32>| match self.tagged {
            true => classes.iter().filter(|class| **class != NO_CLASS).count(),
            false => usize::from(!classes.is_empty()),
        };
        self.classes.iter().map(learned).sum()
    }

    fn row(&self, cell: usize) -> usize {
        cell / self.width.max(1)
    }

    /// The cells of a sequence.
    pub fn cells(&self, sequence: usize) -> Range<usize> {
        self.starts[sequence]..self.starts[sequence] + self.lengths[sequence]
    }

    /// The first half of the examples and the rest, each as wide as before; none of a single example.
    pub fn halves(&self) -> Option<[Batch; 2]> {
        let (count, first) = (self.examples(), self.examples().div_ceil(2));
        (count > 1).then(|| [self.part(0, first), self.part(first, count)])
    }

    /// The examples `from..to`, in rows of their own.
    pub(crate) fn part(&self, from: usize, to: usize) -> Batch {
        let labels = self.labels.get(from..to).unwrap_or_default().to_vec();
        let numbers = self.numbers.get(from..to).unwrap_or_default().to_vec();
        let sequences = from * self.group..to * self.group;
        let starts = &self.starts[sequences.clone()];
        // The first row may be cut in the middle: what is left of it moves to the front.
        let front = starts.first().copied().unwrap_or(0);
        let first_row = self.row(front);
        let moved = |cell: usize| match self.row(cell) == first_row {
            true => cell - front,
            false => cell - first_row * self.width,
        };
        let rows = starts.last().map_or(0, |last| self.row(*last) - first_row + 1);
        let mut ids = vec![0; rows * self.width];
        for cells in sequences.clone().map(|sequence| self.cells(sequence)) {
            let to = moved(cells.start);
            ids[to..to + cells.len()].copy_from_slice(&self.ids[cells]);
        }
        let inside = |of: &i32| sequences.contains(&(*of as usize));
        let learned = self.sequence_of.iter().zip(self.positions.iter().zip(&self.targets));
        let learned = learned.filter(|(of, _)| inside(of));
        let (positions, targets) = learned
            .map(|(_, (at, target))| (moved(*at as usize) as i32, *target))
            .unzip();
        let sequence_of = self.sequence_of.iter().filter(|of| inside(of));
        Batch {
            teacher: self
                .teacher
                .as_ref()
                .map(|teacher| Box::new(teacher.part(self, from, to))),
            ids,
            rows,
            width: self.width,
            multiple: self.multiple,
            lengths: self.lengths[sequences.clone()].to_vec(),
            firsts: self.firsts[sequences.clone()].to_vec(),
            classes: self.classes[sequences.clone()].to_vec(),
            tagged: self.tagged,
            starts: starts.iter().map(|start| moved(*start)).collect(),
            positions,
            targets,
            sequence_of: sequence_of.map(|of| of - sequences.start as i32).collect(),
            group: self.group,
            labels,
            numbers,
        }
    }

    /// Sequences: rows where each holds one.
    pub fn sequences(&self) -> usize {
        self.lengths.len()
    }

    /// Samples, or pairs of them.
    pub fn examples(&self) -> usize {
        self.sequences() / self.group
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
        assert_eq!(whole.sequence_of, [0, 0, 1, 2, 2, 3]);
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

    #[test]
    fn packed_sequences_stand_one_behind_the_other_and_predict_only_their_own() {
        let samples = [
            sample(&[5, 6, 7], ".xx"),
            sample(&[8, 9], ".x"),
            sample(&[4], "."),
            sample(&[3, 2], ".x"),
        ];
        let [a, b, c, d] = samples.each_ref();
        let batch = Batch::packed(&[vec![a, b], vec![c, d]], 0, 1).numbered(&[7, 3, 1, 9]);
        assert_eq!(
            (batch.rows, batch.width, batch.sequences(), batch.examples()),
            (2, 5, 4, 4)
        );
        assert_eq!(batch.ids, [5, 6, 7, 8, 9, 4, 3, 2, 0, 0]);
        assert_eq!(
            (&batch.starts[..], &batch.lengths[..]),
            (&[0, 3, 5, 6][..], &[3, 2, 1, 2][..])
        );
        assert_eq!(
            (&batch.positions[..], &batch.targets[..]),
            (&[0, 1, 3, 6][..], &[6, 7, 9, 2][..])
        );
        assert_eq!(batch.sequence_of, [0, 0, 1, 3]);
        assert_eq!(batch.documents(), Some(vec![vec![0, 3], vec![0, 1]]));
        assert_eq!(Batch::new(&[a, b], 0, 1).documents(), None);
        assert_eq!(batch.with_sequences(&samples).numbered(&[7, 3, 1, 9]), batch);
    }

    #[test]
    fn halves_of_packed_rows_are_cut_between_sequences() {
        let samples = [
            sample(&[5, 6, 7], ".xx"),
            sample(&[8, 9], ".x"),
            sample(&[3, 2], ".x"),
            sample(&[4, 1], ".x"),
        ];
        let [a, b, c, d] = samples.each_ref();
        let whole = Batch::packed(&[vec![a, b, c], vec![d]], 0, 1).numbered(&[7, 3, 1, 9]);
        let [first, rest] = whole.halves().unwrap();
        let wide = |rows: &[Vec<&Sample>]| Batch::packed(rows, 0, 7);
        let same = |part: &Batch, rows: &[Vec<&Sample>], numbers: &[usize]| {
            assert_eq!(
                Batch {
                    multiple: 7,
                    ..part.clone()
                },
                wide(rows).numbered(numbers)
            );
        };
        same(&first, &[vec![a, b]], &[7, 3]);
        same(&rest, &[vec![c], vec![d]], &[1, 9]);
        let [one, other] = first.halves().unwrap();
        same(&one, &[vec![a]], &[7]);
        same(&other, &[vec![b]], &[3]);
        assert_eq!(other.halves(), None);
    }

    #[test]
    fn pairs_are_packed_together() {
        let pair = |a: &[u32], b: &[u32]| sample(a, ".xx").over(sample(b, ".x"));
        let pairs = [pair(&[5, 6, 7], &[5, 9]), pair(&[4, 3, 2], &[4, 8])];
        let packed = Batch::packed(&[pairs.iter().collect()], 0, 1);
        assert_eq!((packed.rows, packed.width, packed.examples()), (1, 10, 2));
        assert_eq!(packed.starts, [0, 3, 5, 8]);
        let [first, rest] = packed.halves().unwrap();
        assert_eq!(
            (first.sequences(), first.rows, &first.ids[..5]),
            (2, 1, &[5, 6, 7, 5, 9][..])
        );
        assert_eq!((rest.starts, rest.sequence_of), (vec![0, 3], vec![0, 0, 1]));
    }
}
