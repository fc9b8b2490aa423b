//! The thread that owns the model: takes commands, and drives the scheduler from step to step.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use ft_model::Model;

use crate::engine::adapters::{Held, Most};
use crate::engine::embeddings::Texts;
use crate::engine::scheduler::Scheduler;
use crate::engine::sequence::Sequence;
use crate::engine::stats::Counters;
use crate::engine::{Command, RequestError, State};

mod beside;

use beside::internal;

pub(super) struct Worker {
    model: Model,
    state: Arc<State>,
    commands: Receiver<Command>,
    adapters: Held,
    texts: VecDeque<Texts>,
    scheduler: Scheduler,
}

impl Worker {
    pub fn new(mut model: Model, state: Arc<State>, commands: Receiver<Command>) -> Self {
        let most = Most {
            known: state.options.adapters,
            in_memory: state.options.adapters_in_memory,
        };
        let adapters = Held::new(&mut model, most, state.names.clone());
        Self {
            scheduler: Scheduler::new(&model, state.options, state.counters.clone()),
            model,
            state,
            commands,
            adapters,
            texts: VecDeque::new(),
        }
    }

    pub fn run(mut self) {
        while self.receive() {
            self.let_go();
            // Texts whose adapter finds no place get the next one that is free.
            if self.embed() {
                self.admit();
            }
            if !self.scheduler.is_running() {
                continue;
            }
            let (scheduler, adapters) = (&mut self.scheduler, &self.adapters);
            let step = || scheduler.step(&self.model, &|rows| adapters.set_rows(rows));
            let ended = catch_unwind(AssertUnwindSafe(step));
            let ended = ended.unwrap_or_else(|panic| self.scheduler.broken(&internal(&*panic)));
            self.scheduler.settle(ended);
        }
        let left = self.scheduler.drain();
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
        self.scheduler.is_idle() && self.texts.is_empty()
    }

    fn obey(&mut self, command: Command) {
        // Who asked may have gone meanwhile: then nobody is told.
        match command {
            Command::Run(sequence) => self.scheduler.push(*sequence),
            Command::Embed(texts) => self.texts.push_back(*texts),
            Command::Load {
                name,
                folder,
                replace,
                answer,
            } => {
                let busy = self.scheduler.busy();
                let loaded = self.adapters.load(&mut self.model, &name, &folder, replace, &busy);
                self.note_adapters();
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
        self.scheduler
            .let_go(|sequence, waits| why(sequence, waits && sequence.generated() == 0));
        match self.adapters.sweep(&mut self.model) {
            Ok(false) => {}
            Ok(true) => self.scheduler.retain_prefixes(&self.adapters.generations()),
            Err(why) => unreachable!("an adapter that was loaded can be dropped: {why}"),
        }
    }

    fn note_adapters(&self) {
        self.counters().adapters_in_memory.set(self.adapters.in_memory() as u64);
    }
}
