//! A run over several devices of one process: each is a rank of its own, a thread with a model, an optimizer and a plan of its own, and the
//! first of them writes and is heard.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use burn::train::Interrupter;
use ft_ranks::Ranks;

use crate::engine::agree;
use crate::engine::cards::Cards;
use crate::engine::fit::{FitOptions, Progress, run};
use crate::watch::Outcome;
use crate::{Error, Plan, Result};

/// A device and what stands for it in records, such as `cuda:1`.
pub type Named = (String, Device);

/// How long those that are left may take to end, once one has failed.
const GRACE: Duration = Duration::from_secs(10);

/// As much as the main thread has.
const STACK: usize = 8 << 20;

/// Runs a plan to its end on these devices together; what [`fit`](crate::fit) makes of it on one, up to rounding. `on_cards`: CUDA cards add up
/// among themselves where that works. A plan for the CPU takes it for as many ranks as there are names.
///
/// # Errors
/// Those of [`fit`](crate::fit), of whichever device met it first. A device that hangs is given up, and its thread left behind.
pub fn fit_on(mut plan: Plan, devices: &[Named], on_cards: bool, options: FitOptions) -> Result<Outcome> {
    let timeout = Duration::from_secs(plan.config.train.timeout);
    let ranks = ft_ranks::threads(devices.len(), timeout);
    let Some(first) = ranks.first() else {
        return Err(Error::Plan(vec!["no device to train on".into()]));
    };
    plan.deal_out(first)?;
    let out = plan.out().to_owned();
    let cards = (on_cards && devices.len() > 1).then(|| Cards::new(devices.iter().map(|(_, device)| device.clone())));
    let (sender, receiver) = channel();
    let (stop, resume) = (options.stop.clone(), options.resume.clone());
    let mut of_first = Some(options);
    for (ranks, (_, device)) in ranks.into_iter().zip(devices) {
        let rank = ranks.rank();
        let options = FitOptions {
            ranks,
            ..of_first.take().unwrap_or_else(|| FitOptions {
                stop: stop.clone(),
                interrupter: Interrupter::new(),
                progress: Progress::Silent,
                resume: resume.clone(),
                ranks: Ranks::alone(),
                on_event: Box::new(|_| {}),
            })
        };
        let (plan, cards, sender) = (plan.beside(device, rank, devices.len()), cards.clone(), sender.clone());
        let work = move || {
            let done = catch_unwind(AssertUnwindSafe(|| run(plan, options, cards)));
            // Nobody listens where the run has been given up.
            let _ = sender.send((rank, done));
        };
        let thread = thread::Builder::new().name(format!("rank {rank}")).stack_size(STACK);
        thread.spawn(work).map_err(|e| Error::io(&out, e))?;
    }
    drop(sender);
    let outcome = ended(&receiver).map_err(|(rank, error)| match rank {
        0 => error,
        _ => Error::OnDevice {
            device: devices[rank].0.clone(),
            error: Box::new(error),
        },
    });
    outcome.map_err(|error| agree::with_last(error, &out))
}

type Done = (usize, std::result::Result<Result<Outcome>, Box<dyn Any + Send>>);

/// What the first rank comes to, once all have ended; or what has ended the run, which is rather what a rank ran into than what others saw of it.
fn ended(ranks: &Receiver<Done>) -> std::result::Result<Outcome, (usize, Error)> {
    let (mut outcome, mut failed) = (None, Vec::new());
    let mut until = None;
    loop {
        let next = match until {
            None => ranks.recv().ok(),
            Some(until) => {
                let left = Instant::saturating_duration_since(&until, Instant::now());
                ranks.recv_timeout(left).ok()
            }
        };
        match next {
            None => break,
            Some((_, Err(panic))) => resume_unwind(panic),
            Some((rank, Ok(Ok(own)))) => outcome = if rank == 0 { Some(own) } else { outcome },
            Some((rank, Ok(Err(error)))) => {
                failed.push((rank, error));
                until.get_or_insert_with(|| Instant::now() + GRACE);
            }
        }
    }
    let lost = || Error::Training("the first device has said nothing".into());
    match failed
        .into_iter()
        .min_by_key(|(rank, error)| (matches!(error, Error::Rank { .. }), *rank))
    {
        Some(failed) => Err(failed),
        None => outcome.ok_or_else(|| (0, lost())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ft_ranks::Lost;

    fn lost(rank: usize) -> Error {
        Error::from(Lost::Gone { rank })
    }

    #[test]
    fn what_a_rank_ran_into_tells_more_than_that_it_has_ended() {
        let (sender, receiver) = channel();
        for (rank, error) in [
            (0, lost(2)),
            (2, Error::Training("the card is on fire".into())),
            (1, lost(2)),
        ] {
            sender.send((rank, Ok(Err(error)))).unwrap();
        }
        drop(sender);
        let (rank, error) = ended(&receiver).unwrap_err();
        assert_eq!(rank, 2);
        let named = Error::OnDevice {
            device: "cuda:2".into(),
            error: Box::new(error),
        };
        assert_eq!(named.to_string(), "cuda:2: training stopped: the card is on fire");
    }

    #[test]
    fn a_panic_of_any_goes_on_here() {
        let (sender, receiver) = channel();
        sender.send((1, Err(Box::new("a bug") as Box<dyn Any + Send>))).unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| ended(&receiver))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug"));
    }
}
