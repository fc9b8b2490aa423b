//! The thread that owns the model: takes commands, forms steps, hands tokens out.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use ft_model::{Model, NextTokens};
use ft_peft::Pass;
use rayon::prelude::*;

use crate::decode::to_host;
use crate::engine::adapters::{Held, Most};
use crate::engine::embeddings::Texts;
use crate::engine::prefixes::Prefixes;
use crate::engine::sequence::Sequence;
use crate::engine::stats::Counters;
use crate::engine::{Command, RequestError, State};
use crate::generation::FinishReason;

mod beside;

use beside::internal;

pub(super) struct Worker {
    model: Model,
    state: Arc<State>,
    commands: Receiver<Command>,
    adapters: Held,
    waiting: VecDeque<Sequence>,
    texts: VecDeque<Texts>,
    /// In the order in which they were admitted.
    running: Vec<Sequence>,
    prefixes: Prefixes,
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
}

/// How a sequence ended, if it did.
type Ended = Option<Result<FinishReason, RequestError>>;

impl Worker {
    pub fn new(mut model: Model, state: Arc<State>, commands: Receiver<Command>) -> Self {
        let most = Most {
            known: state.options.adapters,
            in_memory: state.options.adapters_in_memory,
        };
        let adapters = Held::new(&mut model, most, state.names.clone());
        Self {
            model,
            state,
            commands,
            adapters,
            waiting: VecDeque::new(),
            texts: VecDeque::new(),
            running: Vec::new(),
            prefixes: Prefixes::default(),
        }
    }

    pub fn run(mut self) {
        while self.receive() {
            self.let_go();
            // Texts whose adapter finds no place get the next one that is free.
            if self.embed() {
                self.admit();
            }
            if self.running.is_empty() {
                continue;
            }
            let ended = catch_unwind(AssertUnwindSafe(|| self.step()));
            let ended = ended.unwrap_or_else(|panic| self.broken(&*panic));
            self.settle(ended);
        }
        let left = self.waiting.drain(..).chain(self.running.drain(..));
        left.for_each(|sequence| sequence.end(Err(RequestError::Closing)));
        self.counters().running.set(0);
        self.counters().waiting.set(0);
    }

    fn counters(&self) -> &Counters {
        &self.state.counters
    }

    fn closing(&self) -> bool {
        self.state.closing.load(Ordering::SeqCst)
    }

    /// Takes the commands there are, waiting for one where there is nothing else to do; false when it is over.
    fn receive(&mut self) -> bool {
        if self.is_idle() {
            if self.closing() {
                return false;
            }
            match self.commands.recv() {
                Ok(command) => self.obey(command),
                Err(_) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.is_idle(),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.texts.is_empty()
    }

    fn obey(&mut self, command: Command) {
        // Who asked may have gone meanwhile: then nobody is told.
        match command {
            Command::Run(sequence) => self.waiting.push_back(*sequence),
            Command::Embed(texts) => self.texts.push_back(*texts),
            Command::Load {
                name,
                folder,
                replace,
                answer,
            } => {
                let busy = self.busy();
                let loaded = self.adapters.load(&mut self.model, &name, &folder, replace, &busy);
                self.note();
                let _ = answer.send(loaded);
            }
            Command::Unload { name, answer } => {
                let _ = answer.send(self.adapters.unload(&name));
            }
            Command::Wake => {}
        }
    }

    /// Ends what was cancelled, is late, or is given up, and drops adapters that nobody uses.
    fn let_go(&mut self) {
        let now = Instant::now();
        let closing = self.closing();
        let over = closing
            && self
                .state
                .give_up
                .lock()
                .is_ok_and(|end| end.is_some_and(|end| now >= end));
        let why = |sequence: &Sequence, new: bool| match sequence.stopped(now) {
            // Nobody was told of it yet.
            None if over || (closing && new) => Some(Some(RequestError::Closing)),
            other => other,
        };
        if over {
            self.texts.clear();
        }
        let mut gone = Vec::new();
        let mut waiting = VecDeque::new();
        for sequence in self.waiting.drain(..) {
            match why(&sequence, sequence.generated() == 0) {
                None => waiting.push_back(sequence),
                Some(why) => {
                    self.state.counters.waiting.leave();
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
                None => self.counters().cancelled.add(1),
                Some(why) => {
                    self.counters().failed.add(1);
                    sequence.end(Err(why));
                }
            }
        }
        match self.adapters.sweep(&mut self.model) {
            Ok(false) => {}
            Ok(true) => self.prefixes.retain(&self.adapters.generations()),
            Err(why) => unreachable!("an adapter that was loaded can be dropped: {why}"),
        }
    }

    /// Positions of the cache that the running sequences take once they have taken in all their tokens.
    fn taken(&self) -> usize {
        self.running.iter().map(Sequence::room).sum()
    }

    /// Takes the cache away from those that came last, until what is left fits.
    fn make_room(&mut self) {
        while self.taken() > self.state.options.cache_positions
            && self.running.len() > 1
            && let Some(mut last) = self.running.pop()
        {
            last.drop_cache(self.state.layers);
            self.counters().preempted.add(1);
            self.counters().waiting.add(1);
            self.waiting.push_front(last);
        }
        let free = self.state.options.cache_positions.saturating_sub(self.taken());
        self.prefixes.shrink(free);
    }

    /// Lets rows that decode go ahead, as long as the step stays one of few rows.
    fn speculate(&mut self) {
        let rows = self.running.len();
        if self.running.iter().all(|sequence| sequence.ahead() == 1) {
            let most = self.state.options.lookup_tokens.min(FEW.saturating_sub(rows) / rows);
            self.running.iter_mut().for_each(|sequence| sequence.speculate(most));
        }
    }

    /// Every row that decodes takes its token in; what is left of the step reads prompts, in the order of arrival.
    fn shares(&self) -> Vec<Share> {
        let mut left = self.state.options.prompt_tokens;
        let share = |sequence: &Sequence| {
            let drafted = sequence.drafted();
            let decodes = sequence.ahead() == 1 + drafted;
            let tokens = match decodes {
                true => 1 + drafted,
                false => sequence.ahead().min(left),
            };
            left -= if decodes { 0 } else { tokens };
            let logits = match (sequence.wants_prompt_scores(), tokens == sequence.ahead()) {
                (true, _) => tokens,
                (false, true) => 1 + drafted,
                (false, false) => 0,
            };
            Share { tokens, logits }
        };
        self.running.iter().map(share).collect()
    }

    /// One forward pass and what comes of it, for each running sequence.
    fn step(&mut self) -> Vec<Ended> {
        self.make_room();
        self.speculate();
        let shares = self.shares();
        let vocab = self.state.vocab;
        let order = self.order();
        let mut logits = self.forward(&order, &shares);
        let counters = self.counters();
        counters.steps.add(1);
        let reads = self
            .running
            .iter()
            .zip(&shares)
            .filter(|(sequence, _)| sequence.drafted() == 0);
        let read: usize = reads.map(|(_, share)| share.tokens).filter(|tokens| *tokens > 1).sum();
        counters.prompt_tokens.add(read as u64);

        let mut rest = logits.as_mut_slice();
        let mut parts: Vec<&mut [f32]> = shares.iter().map(|_| <&mut [f32]>::default()).collect();
        for at in order {
            (parts[at], rest) = rest.split_at_mut(shares[at].logits * vocab);
        }
        let sequences = self.running.par_iter_mut().zip(parts).zip(&shares);
        sequences
            .map(|((sequence, logits), share)| advance(sequence, logits, *share, vocab, &self.state.counters))
            .collect()
    }

    /// The running sequences in the order of a step: those with the same adapter side by side.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        order.sort_by_key(|at| self.running[*at].adapter.as_ref().map(|info| info.generation));
        order
    }

    /// The logits that the shares ask for, one behind the other in this order.
    fn forward(&mut self, order: &[usize], shares: &[Share]) -> Vec<f32> {
        let rows = order
            .iter()
            .map(|&at| (self.running[at].adapter.as_ref(), shares[at].tokens));
        self.adapters
            .set_rows(rows.flat_map(|(adapter, tokens)| std::iter::repeat_n(adapter, tokens)));
        let mut wanted = Vec::new();
        let mut end = 0;
        for share in order.iter().map(|&at| shares[at]) {
            end += share.tokens;
            wanted.extend((end - share.logits..end).map(|row| row as i32));
        }
        let mut place = vec![0; order.len()];
        (0..).zip(order).for_each(|(to, &at)| place[at] = to);
        let mut next: Vec<(usize, NextTokens)> = Vec::with_capacity(shares.len());
        for (at, (sequence, share)) in self
            .running
            .iter_mut()
            .zip(shares)
            .enumerate()
            .filter(|(_, s)| s.1.tokens > 0)
        {
            let from = sequence.cache.len();
            let tokens = NextTokens {
                cache: &mut sequence.cache,
                ids: &sequence.tokens[from..from + share.tokens],
            };
            next.push((place[at], tokens));
        }
        next.sort_by_key(|(to, _)| *to);
        let mut next: Vec<NextTokens> = next.into_iter().map(|(_, tokens)| tokens).collect();
        let (model, device) = (&self.model, self.model.device());
        ft_kernels::row_invariant(|| {
            let hidden = model.forward_apart(&mut next, &Pass::eval()); // [tokens, 1, hidden]
            if wanted.is_empty() {
                return Vec::new();
            }
            let count = wanted.len();
            let wanted = Tensor::<1, Int>::from_data(TensorData::new(wanted, [count]), &device);
            to_host(model.logits(hidden.select(0, wanted)).squeeze_dim(1)) // [wanted, vocab]
        })
    }

    /// What a panic in a step means to those who were in it.
    fn broken(&self, panic: &(dyn std::any::Any + Send)) -> Vec<Ended> {
        let error = internal(panic);
        self.running.iter().map(|_| Some(Err(error.clone()))).collect()
    }

    /// Takes out those that have ended.
    fn settle(&mut self, ended: Vec<Ended>) {
        let running = std::mem::take(&mut self.running);
        for (mut sequence, ended) in running.into_iter().zip(ended) {
            match ended {
                None => self.running.push(sequence),
                Some(how) => {
                    if how.is_ok() {
                        self.prefixes.keep(&mut sequence, self.state.layers);
                    }
                    let counter = if how.is_ok() {
                        &self.counters().finished
                    } else {
                        &self.counters().failed
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
fn advance(sequence: &mut Sequence, logits: &mut [f32], share: Share, vocab: usize, counters: &Counters) -> Ended {
    if sequence.wants_prompt_scores() && share.tokens > 0 {
        sequence.score_prompt(sequence.cache.len() - share.tokens, logits, vocab);
    }
    if share.tokens == 0 || sequence.ahead() > 0 {
        return None;
    }
    let draft = sequence.take_draft();
    let before = sequence.generated();
    let own = logits.len() - (1 + draft.len()) * vocab;
    let (mut ended, mut right) = (None, 0);
    for (at, logits) in logits[own..].chunks_exact_mut(vocab).enumerate() {
        ended = sequence.choose(logits);
        if ended.is_some() || draft.get(at) != sequence.tokens.last() {
            break;
        }
        right += 1;
    }
    sequence.keep(draft.len(), right);
    counters.drafted_tokens.add(draft.len() as u64);
    counters.accepted_tokens.add(right as u64);
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
