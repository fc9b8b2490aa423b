//! A language model for tests: the logits of the next token are a row of a table, picked by the last token.

use burn::tensor::{Device, Tensor, TensorData};

use crate::lm::Decoder;
use crate::prompts::{Limits, Padded};

/// A bigram table `[vocab, vocab]`, and a record of the batch widths it was asked for.
pub(crate) struct Table {
    pub(crate) logits: Vec<Vec<f32>>,
    pub(crate) positions: usize,
    /// Last token of every row still in the batch.
    last: Vec<u32>,
    /// Rows of every call.
    pub(crate) calls: Vec<usize>,
}

impl Table {
    pub(crate) fn new(logits: Vec<Vec<f32>>) -> Self {
        Self {
            logits,
            positions: 100,
            last: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// A chain: every token is followed by the next higher one, the last by itself; the runner-up is the token itself.
    pub(crate) fn chain(vocab: usize) -> Self {
        let row = |from: usize| {
            (0..vocab).map(move |to| {
                if to == (from + 1).min(vocab - 1) {
                    5.0
                } else if to == from {
                    2.0
                } else {
                    0.0
                }
            })
        };
        Self::new((0..vocab).map(|from| row(from).collect()).collect())
    }

    /// Logits without a pattern, the same for the same `seed`.
    pub(crate) fn random(vocab: usize, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0
        };
        Self::new((0..vocab).map(|_| (0..vocab).map(|_| next()).collect()).collect())
    }

    fn answer(&mut self) -> Tensor<2> {
        self.calls.push(self.last.len());
        let vocab = self.logits.len();
        let rows: Vec<f32> = self
            .last
            .iter()
            .flat_map(|&id| self.logits[id as usize].clone())
            .collect();
        Tensor::from_data(TensorData::new(rows, [self.last.len(), vocab]), &Device::flex())
    }
}

impl Decoder for Table {
    fn limits(&self) -> Limits {
        Limits {
            vocab: self.logits.len(),
            positions: self.positions,
        }
    }

    fn prefill(&mut self, batch: &Padded) -> Tensor<2> {
        self.last = batch
            .ids
            .chunks(batch.width)
            .map(|row| row[batch.width - 1] as u32)
            .collect();
        self.answer()
    }

    fn step(&mut self, ids: &[u32]) -> Tensor<2> {
        assert_eq!(ids.len(), self.last.len(), "one token per row in the batch");
        self.last = ids.to_vec();
        self.answer()
    }

    fn select(&mut self, rows: &[usize]) {
        self.last = rows.iter().map(|&row| self.last[row]).collect();
    }
}
