//! The numbers of a stored tensor, as the type they are wanted in.

use burn::tensor::{DType, TensorData};
use ft_gguf::TensorType;
use half::{bf16, f16};
use rayon::prelude::*;

/// How a tensor of a GGUF file becomes the one that a checkpoint has.
#[derive(Clone, Debug)]
pub(crate) struct Coded {
    pub kind: &'static TensorType,
    pub change: Change,
}

/// What is undone while a tensor is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// Rows of this many heads are in pairs: row i + j · half of a head is row 2i + j of the file.
    Pairs(usize),
    /// One was added to every number.
    FromOne,
    /// Rows are the columns of the checkpoint's.
    Transposed,
}

/// Bytes and what they mean.
pub(crate) struct Numbers<'a> {
    pub bytes: &'a [u8],
    /// The type that they count as.
    pub own: DType,
    /// As the checkpoint has it.
    pub shape: &'a [usize],
    /// Where they are not little-endian numbers of type `own` in order.
    pub coded: Option<&'a Coded>,
}

impl Numbers<'_> {
    /// As tensor data of type `to`.
    pub fn data(&self, to: DType) -> TensorData {
        let shape = self.shape.to_vec();
        match (self.coded, to) {
            (None, _) if self.own == to => TensorData::from_bytes_vec(self.bytes.to_vec(), shape, to),
            (_, DType::BF16) => TensorData::new(self.rounded(bf16::from_f32), shape),
            (_, DType::F16) => TensorData::new(self.rounded(f16::from_f32), shape),
            _ => TensorData::new(self.floats(), shape),
        }
    }

    /// All numbers, on all cores.
    pub fn floats(&self) -> Vec<f32> {
        match self.coded {
            None => {
                let numbers = 0..self.count();
                numbers.into_par_iter().map(|i| self.float(i)).collect()
            }
            Some(_) => self.rounded(|value| value),
        }
    }

    /// The numbers of a matrix, column by column, on all cores.
    pub fn transposed(&self) -> Vec<f32> {
        let (cols, count) = (self.columns().max(1), self.count());
        let rows = count / cols;
        match self.coded {
            // The file has it so.
            Some(coded) if coded.change == Change::Transposed => self.rows_of(coded, rows, |value| value),
            Some(_) => turned(&self.floats(), rows, cols),
            None => {
                let at = |i: usize| self.float(i % rows * cols + i / rows);
                (0..count).into_par_iter().map(at).collect()
            }
        }
    }

    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number `i` of those that are not coded.
    fn float(&self, i: usize) -> f32 {
        let pair = || u16::from_le_bytes([self.bytes[2 * i], self.bytes[2 * i + 1]]);
        match self.own {
            DType::BF16 => bf16::from_bits(pair()).to_f32(),
            DType::F16 => f16::from_bits(pair()).to_f32(),
            _ => f32::from_le_bytes(std::array::from_fn(|b| self.bytes[4 * i + b])),
        }
    }

    /// All numbers in turn, each by `round`.
    fn rounded<T: Copy + Default + Send + Sync>(&self, round: impl Fn(f32) -> T + Sync) -> Vec<T> {
        match self.coded {
            None => (0..self.count())
                .into_par_iter()
                .map(|i| round(self.float(i)))
                .collect(),
            Some(coded) => match coded.change {
                Change::Transposed => {
                    let (rows, cols) = (self.shape[0], self.columns());
                    turned(&self.rows_of(coded, rows, round), cols, rows)
                }
                // The rows of a vector are its numbers.
                Change::Pairs(_) if self.shape.len() == 1 => self.rows_of(coded, 1, round),
                _ => self.rows_of(coded, self.columns(), round),
            },
        }
    }

    /// The rows of `columns` numbers that the file has, in the checkpoint's order.
    fn rows_of<T: Copy + Default + Send + Sync>(
        &self,
        coded: &Coded,
        columns: usize,
        round: impl Fn(f32) -> T + Sync,
    ) -> Vec<T> {
        let rows = self.count() / columns.max(1);
        let stored = coded.kind.bytes_of(columns).expect("checked when the file was opened");
        let less = if coded.change == Change::FromOne { 1.0 } else { 0.0 };
        let mut out = vec![T::default(); self.count()];
        out.par_chunks_mut(columns.max(1)).enumerate().for_each_init(
            || vec![0.0; columns],
            |values, (row, out)| {
                let row = coded.change.source(row, rows);
                coded.kind.decode(&self.bytes[row * stored..(row + 1) * stored], values);
                for (to, value) in out.iter_mut().zip(values) {
                    *to = round(*value - less);
                }
            },
        );
        out
    }
}

impl Change {
    /// The row of the file that row `row` of `rows` is.
    fn source(self, row: usize, rows: usize) -> usize {
        match self {
            Change::Pairs(heads) => {
                let head = rows / heads;
                let (start, within) = (row / head * head, row % head);
                start + within % (head / 2) * 2 + within / (head / 2)
            }
            _ => row,
        }
    }
}

/// `[rows, cols]` as `[cols, rows]`.
fn turned<T: Copy + Send + Sync>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    let at = |i: usize| values[i % rows * cols + i / rows];
    (0..values.len()).into_par_iter().map(at).collect()
}
