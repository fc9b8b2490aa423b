//! Whose answer a sequence is.

use std::sync::Arc;

use crate::engine::AdapterInfo;

/// The adapter of a sequence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whose {
    /// Tells adapters apart; 0 is the base, or the model as it is.
    pub generation: u64,
    /// Columns that stand before its text in its cache.
    pub virtual_tokens: usize,
    /// Of the engine's own: for as long as this is held, the adapter is not dropped.
    pub loaded: Option<Arc<AdapterInfo>>,
}

impl Whose {
    /// One of the engine's adapters.
    pub fn loaded(info: Arc<AdapterInfo>) -> Self {
        Self {
            generation: info.generation,
            virtual_tokens: info.virtual_tokens,
            loaded: Some(info),
        }
    }

    /// The model as it is, whose adapter puts so many virtual tokens before every text.
    pub fn lent(virtual_tokens: usize) -> Self {
        Self {
            virtual_tokens,
            ..Self::default()
        }
    }

    /// Adapter `number` of those that rows can choose.
    pub fn mixed(number: usize) -> Self {
        Self {
            generation: number as u64 + 1,
            ..Self::default()
        }
    }
}
