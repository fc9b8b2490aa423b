//! The model as decoding sees it: logits of the last position, one column at a time.

use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_model::{KvCache, Model, Rows};
use ft_peft::{Pass, RowChoice};

use crate::prompts::{Limits, Padded};

/// A language model that keeps its past. Tests put a table in its place.
pub(crate) trait Decoder {
    fn limits(&self) -> Limits;

    /// Takes the prompts; logits of each row's next token `[rows, vocab]`.
    fn prefill(&mut self, batch: &Padded) -> Tensor<2>;

    /// Takes one token per row; logits of each row's next token `[rows, vocab]`.
    fn step(&mut self, ids: &[u32]) -> Tensor<2>;

    /// Goes on with these rows, in this order; a row may be named more than once.
    fn select(&mut self, rows: &[usize]);
}

/// A model and the keys and values of what it has read.
pub(crate) struct Cached<'a> {
    model: &'a Model,
    device: Device,
    cache: KvCache,
    pads: Vec<usize>,
    mixed: Option<MixedRows<'a>>,
    /// The adapter of each row, where rows differ.
    adapters: Vec<Option<usize>>,
}

/// Prompts with adapters of their own.
#[derive(Clone, Copy, Debug)]
pub struct MixedRows<'a> {
    /// What `Adapters::mix` gave.
    pub rows: &'a RowChoice,
    /// For each prompt, the adapter by its index in what was mixed; `None` is the base.
    pub adapters: &'a [Option<usize>],
}

impl<'a> Cached<'a> {
    pub(crate) fn new(model: &'a Model, mixed: Option<MixedRows<'a>>) -> Self {
        let cache = KvCache::new(model.config().num_hidden_layers);
        Self {
            model,
            device: model.device(),
            cache,
            pads: Vec::new(),
            mixed,
            adapters: Vec::new(),
        }
    }

    fn rows(&self) -> Rows {
        // Without padding one row of positions serves the whole batch.
        if self.pads.iter().all(|&pad| pad == 0) {
            Rows::Right
        } else {
            Rows::Left(self.pads.clone())
        }
    }

    fn forward(&mut self, ids: Vec<i32>, width: usize) -> Tensor<2> {
        let rows = self.pads.len();
        if let Some(mixed) = &self.mixed {
            mixed.rows.set(self.adapters.clone());
        }
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, width]), &self.device);
        let hidden = self
            .model
            .forward(ids, &self.rows(), Some(&mut self.cache), &Pass::eval());
        // Only the last position goes through the head: [rows, width, hidden] -> [rows, 1, hidden] -> [rows, 1, vocab]
        let last = hidden.narrow(1, width - 1, 1);
        self.model.logits(last).squeeze_dim(1)
    }
}

impl Decoder for Cached<'_> {
    fn limits(&self) -> Limits {
        Limits {
            vocab: self.model.config().vocab_size,
            positions: self.model.positions(),
        }
    }

    fn prefill(&mut self, batch: &Padded) -> Tensor<2> {
        self.cache = KvCache::new(self.model.config().num_hidden_layers);
        self.pads = batch.pads.clone();
        let mixed = self.mixed.iter();
        self.adapters = mixed
            .flat_map(|m| batch.prompts.iter().map(|&p| m.adapters[p]))
            .collect();
        self.forward(batch.ids.clone(), batch.width)
    }

    fn step(&mut self, ids: &[u32]) -> Tensor<2> {
        self.forward(ids.iter().map(|&id| id as i32).collect(), 1)
    }

    fn select(&mut self, rows: &[usize]) {
        if rows.iter().copied().eq(0..self.pads.len()) {
            return;
        }
        let index: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        self.cache
            .select_rows(Tensor::from_data(TensorData::new(index, [rows.len()]), &self.device));
        self.pads = rows.iter().map(|&row| self.pads[row]).collect();
        if self.mixed.is_some() {
            self.adapters = rows.iter().map(|&row| self.adapters[row]).collect();
        }
    }
}
