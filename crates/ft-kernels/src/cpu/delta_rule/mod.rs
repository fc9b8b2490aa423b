//! The gated delta rule in f32: chunks of 64 columns as matrix products for training, column by column where a state goes on.
mod backward;
mod chunk;
mod forward;
mod recurrent;

pub(crate) use backward::backward;
pub(crate) use forward::forward;
pub(crate) use recurrent::recurrent;

use crate::gated_delta_rule::DeltaHeads;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// The sizes of a call, and where in a column a head's numbers are.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    b: usize,
    s: usize,
    heads: DeltaHeads,
}

impl Sizes {
    fn new(qkv: &FlexTensor, heads: DeltaHeads) -> Self {
        let [b, s, _] = qkv.shape().dims();
        Self { b, s, heads }
    }

    /// Numbers of a state.
    fn state(&self) -> usize {
        self.heads.key_dim * self.heads.value_dim
    }

    /// Where the queries of a key head begin in a column.
    fn query(&self, key_head: usize) -> usize {
        key_head * self.heads.key_dim
    }

    fn key(&self, key_head: usize) -> usize {
        self.heads.keys() + key_head * self.heads.key_dim
    }

    fn value(&self, value_head: usize) -> usize {
        2 * self.heads.keys() + value_head * self.heads.value_dim
    }
}

/// The first columns that the columns of one row see; before the call without bound where nothing is said.
#[derive(Debug, Clone, Copy)]
struct Row<'a>(Option<&'a [i64]>);

impl<'a> Row<'a> {
    fn of(first: Option<&'a [i64]>, row: usize, s: usize) -> Self {
        Self(first.map(|first| &first[row * s..(row + 1) * s]))
    }

    fn first(&self, column: usize) -> i64 {
        self.0.map_or(i64::MIN, |first| first[column])
    }

    /// Whether `column` sees `other`, which is no later; −1 stands for what was before the call.
    fn sees(&self, column: usize, other: i64) -> bool {
        self.first(column) <= other
    }
}
