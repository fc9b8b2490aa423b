//! The one loop in which tokens are decoded: sequences that are admitted, share steps, and leave. It borrows the model for a step at a
//! time, so that whoever has one can drive it: the engine's thread, or a call of [`generate`](crate::generate()).

use std::collections::VecDeque;
use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use ft_model::{KvCache, Model, NextTokens};
use ft_peft::Pass;
use rayon::prelude::*;

use crate::engine::logits::{Logits, Part};
use crate::engine::prefixes::Prefixes;
use crate::engine::sequence::{Answer, Sequence};
use crate::engine::stats::Counters;
use crate::engine::whose::Whose;
use crate::engine::{EngineOptions, RequestError};
use crate::generation::FinishReason;

pub(crate) struct Scheduler {
    options: EngineOptions,
    layers: usize,
    vocab: usize,
    counters: Arc<Counters>,
    waiting: VecDeque<Sequence>,
    /// In the order in which they were admitted.
    running: Vec<Sequence>,
    prefixes: Prefixes,
    /// Most positions that were taken at once, where ended sequences may leave no more than that.
    most_taken: Option<usize>,
    /// Whether steps of any size give the same bits.
    exact: bool,
}

/// Rows of a step up to which its time is that of reading the weights.
const FEW: usize = 8;

/// What a running sequence does in a step.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// Tokens that it takes in.
    tokens: usize,
    /// Logits of its last so many tokens are needed.
    logits: usize,
    /// It has taken in all its tokens then.
    chooses: bool,
}

/// How a sequence ended, if it did.
pub(crate) type Ended = Option<Result<FinishReason, RequestError>>;

/// Why a sequence is given up; `None` needs no answer.
pub(crate) type GivenUp = Option<RequestError>;

impl Scheduler {
    pub fn new(model: &Model, options: EngineOptions, counters: Arc<Counters>) -> Self {
        Self {
            options,
            layers: model.config().num_hidden_layers,
            vocab: model.config().vocab_size,
            counters,
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefixes: Prefixes::default(),
            most_taken: None,
            exact: true,
        }
    }

    /// The same for a caller who waits for all there is: it takes no memory for what ended sequences leave, which keep what others that
    /// run may take again, and steps of many rows sum in the order that is fastest.
    pub fn lent(self) -> Self {
        Self {
            most_taken: Some(0),
            exact: false,
            ..self
        }
    }

    pub fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Takes all sequences out.
    pub fn drain(&mut self) -> impl Iterator<Item = Sequence> {
        self.waiting.drain(..).chain(self.running.drain(..))
    }

    /// Generations of the adapters of running sequences.
    pub fn busy(&self) -> Vec<u64> {
        let own = self.running.iter().map(|sequence| sequence.whose.generation);
        own.filter(|generation| *generation > 0).collect()
    }

    /// Forgets what was computed with adapters other than these.
    pub fn retain_prefixes(&mut self, generations: &[u64]) {
        self.prefixes.retain(generations);
    }

    /// Ends the sequences that `why` gives up; it is told which of them wait.
    pub fn let_go(&mut self, why: impl Fn(&Sequence, bool) -> Option<GivenUp>) {
        let mut gone = Vec::new();
        let mut waiting = VecDeque::new();
        for sequence in self.waiting.drain(..) {
            match why(&sequence, true) {
                None => waiting.push_back(sequence),
                Some(why) => {
                    self.counters.waiting.leave();
                    gone.push((sequence, why));
                }
            }
        }
        self.waiting = waiting;
        let mut running = Vec::new();
        for sequence in self.running.drain(..) {
            match why(&sequence, false) {
                None => running.push(sequence),
                Some(why) => gone.push((sequence, why)),
            }
        }
        self.running = running;
        for (sequence, why) in gone {
            match why {
                None => self.counters.cancelled.add(1),
                Some(why) => {
                    self.counters.failed.add(1);
                    sequence.end(Err(why));
                }
            }
        }
    }

    /// Takes in those that have waited longest, as far as places and cache reach. `begin` gives what the cache of a sequence with this
    /// adapter begins with, or nothing while the adapter finds no place beside those of the generations that are named.
    pub fn admit(&mut self, mut begin: impl FnMut(&Whose, &[u64]) -> Result<Option<KvCache>, RequestError>) {
        while self.running.len() < self.options.sequences
            && let Some(first) = self.waiting.front()
            && self.taken() + first.room() <= self.options.cache_positions
        {
            // The next that ends makes a place for it.
            let Some(start) = begin(&first.whose, &self.busy()).transpose() else {
                break;
            };
            let Some(mut first) = self.waiting.pop_front() else {
                break;
            };
            self.counters.waiting.leave();
            match start {
                Ok(start) => first.cache = start,
                Err(why) => {
                    self.counters.failed.add(1);
                    first.end(Err(why));
                    continue;
                }
            }
            self.prefixes.reuse(&mut first);
            self.counters.reused_tokens.add(first.cache.len() as u64);
            self.running.push(first);
        }
        self.note();
    }

    fn note(&self) {
        self.counters.running.set(self.running.len() as u64);
        self.counters.cache_used.set(self.taken() as u64);
    }

    /// Positions of the cache that the running sequences take once they have taken in all their tokens.
    fn taken(&self) -> usize {
        self.running.iter().map(Sequence::room).sum()
    }

    /// Takes the cache away from those that came last, until what is left fits.
    fn make_room(&mut self) {
        while self.taken() > self.options.cache_positions
            && self.running.len() > 1
            && let Some(mut last) = self.running.pop()
        {
            last.drop_cache(self.layers);
            self.counters.preempted.add(1);
            self.counters.waiting.add(1);
            self.waiting.push_front(last);
        }
        let taken = self.taken();
        let most = match &mut self.most_taken {
            None => self.options.cache_positions,
            Some(most) => {
                *most = taken.max(*most);
                *most
            }
        };
        self.prefixes.shrink(most.saturating_sub(taken));
    }

    /// Lets rows that decode go ahead, as long as the step stays one of few rows.
    fn speculate(&mut self) {
        let rows = self.running.len();
        if self.running.iter().all(|sequence| sequence.ahead() == 1) {
            let most = self.options.lookup_tokens.min(FEW.saturating_sub(rows) / rows);
            self.running.iter_mut().for_each(|sequence| sequence.speculate(most));
        }
    }

    /// Every row that decodes takes its token in; what is left of the step reads prompts, in the order of arrival.
    fn shares(&self) -> Vec<Share> {
        let mut left = self.options.prompt_tokens;
        let share = |sequence: &Sequence| {
            let ahead = sequence.ahead();
            let tokens = match sequence.decodes() {
                true => ahead,
                false => {
                    let tokens = ahead.min(left);
                    left -= tokens;
                    tokens
                }
            };
            let chooses = tokens == ahead;
            let logits = match (sequence.wants_prompt_scores(), chooses) {
                (true, _) => tokens,
                (false, true) => sequence.judged(),
                (false, false) => 0,
            };
            Share {
                tokens,
                logits,
                chooses,
            }
        };
        self.running.iter().map(share).collect()
    }

    /// One forward pass and what comes of it, for each running sequence; there is at least one. `set_rows` tells the model the
    /// generation of each row's adapter.
    pub fn step(&mut self, model: &Model, set_rows: &dyn Fn(&[u64])) -> Vec<Ended> {
        self.make_room();
        self.speculate();
        let shares = self.shares();
        let reads = self.running.iter().zip(&shares);
        let reads = reads.filter(|(sequence, _)| !sequence.decodes());
        let read: usize = reads.map(|(_, share)| share.tokens).sum();
        self.counters.prompt_tokens.add(read as u64);
        let mut logits = self.forward(model, set_rows, &shares);
        self.counters.steps.add(1);
        let parts = logits.parts(shares.iter().map(|share| share.logits), self.vocab);
        let (vocab, counters) = (self.vocab, &self.counters);
        let sequences = self.running.par_iter_mut().zip(parts).zip(&shares);
        sequences
            .map(|((sequence, part), share)| advance(sequence, part, *share, vocab, counters))
            .collect()
    }

    /// The logits that the shares ask for, one behind the other.
    fn forward(&mut self, model: &Model, set_rows: &dyn Fn(&[u64]), shares: &[Share]) -> Logits {
        let largest = self.running.iter().all(Sequence::takes_largest);
        // Those with the same adapter side by side.
        let mut order: Vec<usize> = (0..shares.len()).filter(|at| shares[*at].tokens > 0).collect();
        order.sort_by_key(|at| self.running[*at].whose.generation);
        let rows = order
            .iter()
            .flat_map(|at| std::iter::repeat_n(self.running[*at].whose.generation, shares[*at].tokens));
        set_rows(&rows.collect::<Vec<u64>>());
        let mut ends = vec![0; shares.len()];
        let mut end = 0;
        for at in &order {
            end += shares[*at].tokens;
            ends[*at] = end;
        }
        // In the order of the sequences, whatever that of the rows.
        let wanted = shares.iter().zip(ends).flat_map(|(share, end)| end - share.logits..end);
        let wanted: Vec<i32> = wanted.map(|row| row as i32).collect();

        let mut places = vec![usize::MAX; shares.len()];
        order.iter().enumerate().for_each(|(place, at)| places[*at] = place);
        let running = self.running.iter_mut().zip(shares).zip(places);
        let at_work = running.filter(|((_, share), _)| share.tokens > 0);
        let mut next: Vec<(usize, Vec<NextTokens>)> = at_work
            .map(|((sequence, share), place)| (place, sequence.next(share.tokens)))
            .collect();
        next.sort_by_key(|(place, _)| *place);
        let mut next: Vec<NextTokens> = next.into_iter().flat_map(|(_, tokens)| tokens).collect();
        let compute = || {
            let hidden = model.forward_apart(&mut next, &Pass::eval()); // [tokens, 1, hidden]
            if wanted.is_empty() {
                return Logits::none();
            }
            let (count, device) = (wanted.len(), model.device());
            let wanted = Tensor::<1, Int>::from_data(TensorData::new(wanted, [count]), &device);
            let logits = model.logits(hidden.select(0, wanted)).squeeze_dim(1); // [wanted, vocab]
            match largest {
                true => Logits::largest(logits),
                false => Logits::all(logits),
            }
        };
        match self.exact || end <= FEW {
            true => ft_kernels::row_invariant(compute),
            false => compute(),
        }
    }

    /// What an error in a step means to those who were in it.
    pub fn broken(&self, why: &RequestError) -> Vec<Ended> {
        self.running.iter().map(|_| Some(Err(why.clone()))).collect()
    }

    /// Takes out those that have ended.
    pub fn settle(&mut self, ended: Vec<Ended>) {
        let running = std::mem::take(&mut self.running);
        for (mut sequence, ended) in running.into_iter().zip(ended) {
            match ended {
                None => self.running.push(sequence),
                Some(how) => {
                    let counter = match &how {
                        Ok(_) => {
                            self.prefixes.keep(&mut sequence, self.layers);
                            &self.counters.finished
                        }
                        Err(_) => &self.counters.failed,
                    };
                    counter.add(1);
                    sequence.end(how);
                }
            }
        }
        self.note();
    }
}

/// Gives a sequence the logits of its share.
fn advance(sequence: &mut Sequence, part: Part<'_>, share: Share, vocab: usize, counters: &Counters) -> Ended {
    if share.tokens > 0
        && sequence.wants_prompt_scores()
        && let Part::All(logits) = &part
    {
        sequence.score_prompt(sequence.cache.len() - share.tokens, logits, vocab);
    }
    if !share.chooses {
        return None;
    }
    let draft = sequence.take_draft();
    let before = sequence.generated();
    let ended = match part {
        Part::All(logits) if sequence.searches() => sequence.search(logits, vocab),
        part => choose(
            sequence,
            &draft,
            part.rows(vocab).skip(share.logits - (1 + draft.len())),
            counters,
        ),
    };
    let generated = sequence.generated() - before;
    counters.generated_tokens.add(generated as u64);
    if before == 0 && generated > 0 {
        counters.first_tokens.add(1);
        let micros = sequence.arrived.elapsed().as_micros();
        counters
            .first_token_micros
            .add(u64::try_from(micros).unwrap_or(u64::MAX));
    }
    ended
}

/// Chooses the next token, and those behind it as far as the draft was right.
fn choose<'a>(
    sequence: &mut Sequence,
    draft: &[u32],
    answers: impl Iterator<Item = Answer<'a>>,
    counters: &Counters,
) -> Ended {
    let (mut ended, mut right) = (None, 0);
    for (at, answer) in answers.enumerate() {
        ended = sequence.choose(answer);
        if ended.is_some() || draft.get(at) != sequence.tokens.last() {
            break;
        }
        right += 1;
    }
    sequence.keep(draft.len(), right);
    counters.drafted_tokens.add(draft.len() as u64);
    counters.accepted_tokens.add(right as u64);
    ended
}
