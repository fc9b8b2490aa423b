//! What the worker does between two steps: who is admitted, which adapters come back into memory, texts that become vectors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ft_model::{KvCache, Model};

use super::Worker;
use crate::embed::embed_rows;
use crate::engine::adapters::{AdapterInfo, Fetched, Held};
use crate::engine::stats::Counters;
use crate::engine::{RequestError, embeddings};

impl Worker {
    /// Takes in those that have waited longest.
    pub(super) fn admit(&mut self) {
        let (model, adapters, state) = (&mut self.model, &mut self.adapters, &self.state);
        let layers = state.layers;
        self.scheduler.admit(|whose, busy| {
            let Some(info) = &whose.loaded else {
                return Ok(Some(KvCache::new(layers)));
            };
            let there = fetch(adapters, model, info, busy, &state.counters)?;
            Ok(there.then(|| adapters.start(info).unwrap_or_else(|| KvCache::new(layers))))
        });
        self.note_adapters();
    }

    /// Makes vectors of the texts that have waited longest; false while there is no place for their adapter.
    pub(super) fn embed(&mut self) -> bool {
        let Some(texts) = self.texts.pop_front() else {
            return true;
        };
        let fetched = match &texts.adapter {
            None => Ok(true),
            Some(info) => {
                let (busy, counters) = (self.scheduler.busy(), &self.state.counters);
                fetch(&mut self.adapters, &mut self.model, info, &busy, counters)
            }
        };
        let made = match fetched {
            Err(why) => Err(why),
            Ok(false) => {
                self.texts.push_front(texts);
                return false;
            }
            Ok(true) => {
                let generation = texts.adapter.as_ref().map_or(0, |info| info.generation);
                let whose = |rows| self.adapters.set_rows(&vec![generation; rows]);
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

/// Makes sure that an adapter is in memory; false while there is no place for it.
fn fetch(
    adapters: &mut Held,
    model: &mut Model,
    info: &Arc<AdapterInfo>,
    busy: &[u64],
    counters: &Counters,
) -> Result<bool, RequestError> {
    let fetched = adapters.fetch(model, info, busy);
    if fetched == Ok(Fetched::Read) {
        counters.adapter_reloads.add(1);
    }
    let failed = |why| RequestError::Adapter {
        name: info.name.clone(),
        why,
    };
    fetched.map(|fetched| fetched != Fetched::Later).map_err(failed)
}

/// A panic as what a client is told.
pub(super) fn internal(panic: &(dyn std::any::Any + Send)) -> RequestError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    RequestError::Internal(text.unwrap_or("a step failed").into())
}
