//! What a request is told while it is worked on: a queue with two ends, awaited or waited for.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::engine::RequestError;
use crate::engine::scores::TokenScore;
use crate::generation::FinishReason;

/// What happens to a request, in this order: the prompt's scores (if asked for), tokens, the end.
#[derive(Clone, Debug)]
pub enum Event {
    /// One entry per token of the prompt; nothing precedes the first, so that it has none.
    Prompt(Vec<Option<TokenScore>>),
    /// A token was chosen.
    Token {
        /// The token.
        id: u32,
        /// Its log probability and those of the likeliest, if asked for.
        score: Option<TokenScore>,
        /// Set on the last one. With [`FinishReason::Stop`], `id` is the stop token and no part of the text.
        finish: Option<FinishReason>,
    },
    /// Nothing follows.
    End(Result<FinishReason, RequestError>),
}

/// The events of one request. Dropping it cancels the request: its row and its cache are free at the next step.
#[derive(Debug)]
pub struct Events(Arc<Shared>);

/// The engine's end.
#[derive(Debug)]
pub(crate) struct Sender(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    waker: Option<Waker>,
    /// The receiver is gone.
    abandoned: bool,
    /// The sender is gone.
    ended: bool,
}

pub(crate) fn channel() -> (Sender, Events) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Events(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change(&self, edit: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.lock();
            edit(&mut state);
            state.waker.take()
        };
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Sender {
    pub fn send(&self, event: Event) {
        self.0.change(|state| {
            if !state.abandoned {
                state.waiting.push_back(event);
            }
        });
    }

    /// Whether nobody listens any more.
    pub fn abandoned(&self) -> bool {
        self.0.lock().abandoned
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.change(|state| state.ended = true);
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.abandoned = true;
        state.waiting.clear();
    }
}

impl Events {
    /// The next event, awaited under any executor; `None` after the end.
    pub async fn recv(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The same as a poll, for a stream of another crate's trait.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.0.lock();
        match state.waiting.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if state.ended => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next event, if it is there already.
    pub(crate) fn there(&mut self) -> Option<Event> {
        self.0.lock().waiting.pop_front()
    }

    /// The next event, waited for on this thread; `None` after the end.
    pub fn wait(&mut self) -> Option<Event> {
        let state = self.0.lock();
        let idle = |state: &mut State| state.waiting.is_empty() && !state.ended;
        let mut state = self.0.filled.wait_while(state, idle).unwrap_or_else(|p| p.into_inner());
        state.waiting.pop_front()
    }

    /// The same for at most `limit`.
    ///
    /// # Errors
    /// [`Elapsed`] when nothing came.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<Event>, Elapsed> {
        let state = self.0.lock();
        let idle = |state: &mut State| state.waiting.is_empty() && !state.ended;
        let waited = self.0.filled.wait_timeout_while(state, limit, idle);
        let (mut state, time) = waited.unwrap_or_else(|p| p.into_inner());
        match time.timed_out() && idle(&mut state) {
            true => Err(Elapsed),
            false => Ok(state.waiting.pop_front()),
        }
    }
}

/// Nothing happened for as long as was waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32) -> Event {
        Event::Token {
            id,
            score: None,
            finish: None,
        }
    }

    #[test]
    fn what_was_sent_arrives_before_the_end() {
        let (sender, mut events) = channel();
        assert_eq!(events.wait_for(Duration::from_millis(1)).unwrap_err(), Elapsed);
        sender.send(token(1));
        sender.send(token(2));
        drop(sender);
        assert!(matches!(events.wait(), Some(Event::Token { id: 1, .. })));
        assert!(matches!(
            events.wait_for(Duration::ZERO),
            Ok(Some(Event::Token { id: 2, .. }))
        ));
        assert!(events.wait().is_none() && events.wait_for(Duration::ZERO).unwrap().is_none());
    }

    #[test]
    fn an_awaiting_task_is_woken() {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let (sender, mut events) = channel();
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        assert!(events.poll_recv(&mut context).is_pending());
        let other = std::thread::spawn(move || sender.send(token(7)));
        let found = loop {
            match events.poll_recv(&mut context) {
                Poll::Ready(found) => break found,
                Poll::Pending => std::thread::park(),
            }
        };
        other.join().unwrap();
        assert!(matches!(found, Some(Event::Token { id: 7, .. })));
    }

    #[test]
    fn the_sender_sees_that_nobody_listens() {
        let (sender, events) = channel();
        assert!(!sender.abandoned());
        drop(events);
        assert!(sender.abandoned());
        sender.send(token(1));
    }
}
