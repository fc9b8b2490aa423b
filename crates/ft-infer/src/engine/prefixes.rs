//! Keys and values of requests that have ended, for those that begin with the same tokens.

use std::collections::VecDeque;

use ft_model::KvCache;

use crate::engine::sequence::Sequence;

/// Shorter beginnings are computed again: copying a buffer costs as much.
const SHORTEST: usize = 16;

/// What ended requests left, oldest first. It takes what is free of the budget and gives it back at once.
#[derive(Debug, Default)]
pub(super) struct Prefixes(VecDeque<Kept>);

#[derive(Debug)]
struct Kept {
    /// Of the adapter; an adapter that was loaded again is another one. 0 is the base.
    generation: u64,
    tokens: Vec<u32>,
    cache: KvCache,
}

impl Prefixes {
    /// Positions of the budget that it takes.
    pub fn taken(&self) -> usize {
        let room = |kept: &Kept| KvCache::room(kept.cache.virtual_tokens() + kept.tokens.len());
        self.0.iter().map(room).sum()
    }

    /// Keeps what a request held.
    pub fn keep(&mut self, sequence: &mut Sequence, layers: usize) {
        let len = sequence.cache.len();
        if len < SHORTEST {
            return;
        }
        let kept = Kept {
            generation: sequence.whose.generation,
            tokens: sequence.tokens[..len].to_vec(),
            cache: std::mem::replace(&mut sequence.cache, KvCache::new(layers)),
        };
        // What the new one begins with is not needed twice.
        self.0
            .retain(|old| old.generation != kept.generation || !kept.tokens.starts_with(&old.tokens));
        self.0.push_back(kept);
    }

    /// Gives a request that holds nothing the longest beginning that there is, leaving it at least one token to compute.
    pub fn reuse(&mut self, sequence: &mut Sequence) {
        // The scores of a prompt need its hidden states.
        if sequence.wants_prompt_scores() {
            return;
        }
        let (own, wanted) = (sequence.whose.generation, &sequence.tokens[..sequence.tokens.len() - 1]);
        let common = |kept: &Kept| {
            let same = kept.tokens.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            kept.cache.resumes(same)
        };
        let same = self.0.iter().enumerate().filter(|(_, kept)| kept.generation == own);
        let best = same.map(|(at, kept)| (common(kept), at)).max();
        if let Some((len, at)) = best.filter(|(len, _)| *len >= SHORTEST)
            && let Some(kept) = self.0.remove(at)
        {
            sequence.cache = kept.cache.truncated(len);
            // Others may begin so too.
            if len < kept.tokens.len() {
                self.0.push_back(kept);
            }
        }
    }

    /// Forgets the oldest until at most `positions` are taken.
    pub fn shrink(&mut self, positions: usize) {
        while self.taken() > positions {
            self.0.pop_front();
        }
    }

    /// Forgets everything that was computed with adapters other than these.
    pub fn retain(&mut self, generations: &[u64]) {
        self.0
            .retain(|kept| kept.generation == 0 || generations.contains(&kept.generation));
    }
}
