//! What the worker does between two steps: who is admitted, which adapters come back into memory, texts that become vectors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Worker;
use crate::embed::embed_rows;
use crate::engine::adapters::{AdapterInfo, Fetched};
use crate::engine::{RequestError, embeddings};

impl Worker {
    /// Takes in those that have waited longest, as far as places, cache and adapters reach.
    pub(super) fn admit(&mut self) {
        let options = self.state.options;
        while self.running.len() < options.sequences
            && let Some(first) = self.waiting.front()
            && self.taken() + first.room() <= options.cache_positions
        {
            let fetched = match first.adapter.clone() {
                None => Ok(()),
                Some(info) => match self.fetch(&info) {
                    // The next that ends makes a place for it.
                    Ok(false) => break,
                    fetched => fetched.map(drop),
                },
            };
            let Some(mut first) = self.waiting.pop_front() else {
                break;
            };
            self.counters().waiting.leave();
            if let Err(why) = fetched {
                self.counters().failed.add(1);
                first.end(Err(why));
                continue;
            }
            if first.cache.is_empty() {
                let start = first.adapter.as_ref().and_then(|info| self.adapters.start(info));
                if let Some(start) = start {
                    first.cache = start;
                }
                self.prefixes.reuse(&mut first);
                self.counters().reused_tokens.add(first.cache.len() as u64);
            }
            self.running.push(first);
        }
        self.note();
    }

    pub(super) fn note(&self) {
        self.counters().running.set(self.running.len() as u64);
        self.counters().cache_used.set(self.taken() as u64);
        self.counters().adapters_in_memory.set(self.adapters.in_memory() as u64);
    }

    /// Generations of the adapters that requests at work have.
    pub(super) fn busy(&self) -> Vec<u64> {
        let adapters = self.running.iter().filter_map(|sequence| sequence.adapter.as_ref());
        adapters.map(|info| info.generation).collect()
    }

    /// Makes sure that an adapter is in memory; false while there is no place for it.
    pub(super) fn fetch(&mut self, info: &Arc<AdapterInfo>) -> Result<bool, RequestError> {
        let busy = self.busy();
        let fetched = self.adapters.fetch(&mut self.model, info, &busy);
        if fetched == Ok(Fetched::Read) {
            self.counters().adapter_reloads.add(1);
        }
        let failed = |why| RequestError::Adapter {
            name: info.name.clone(),
            why,
        };
        fetched.map(|fetched| fetched != Fetched::Later).map_err(failed)
    }

    /// Makes vectors of the texts that have waited longest; false while there is no place for their adapter.
    pub(super) fn embed(&mut self) -> bool {
        let Some(texts) = self.texts.pop_front() else {
            return true;
        };
        let fetched = match &texts.adapter {
            None => Ok(true),
            Some(info) => self.fetch(&info.clone()),
        };
        let made = match fetched {
            Err(why) => Err(why),
            Ok(false) => {
                self.texts.push_front(texts);
                return false;
            }
            Ok(true) => {
                let whose = |rows| {
                    self.adapters
                        .set_rows(std::iter::repeat_n(texts.adapter.as_ref(), rows))
                };
                let shape = [embeddings::BATCH, 1];
                let work = || embed_rows(&self.model, &texts.ids, &texts.config, shape, &whose);
                let made = catch_unwind(AssertUnwindSafe(|| ft_kernels::row_invariant(work)));
                made.map_err(|panic| internal(&*panic))
            }
        };
        if made.is_ok() {
            self.counters().embedded_texts.add(texts.ids.len() as u64);
        }
        // Who asked may have gone.
        let _ = texts.answer.send(made);
        true
    }
}

/// A panic as what a client is told.
pub(super) fn internal(panic: &(dyn std::any::Any + Send)) -> RequestError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    RequestError::Internal(text.unwrap_or("a step failed").into())
}
