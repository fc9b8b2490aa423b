//! Who answers prompts: the one process, or all ranks, each some of them. What a prompt is answered does not depend on who is asked.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use ft_infer::{Generation, GenerationConfig, Token, generate, generate_some};
use ft_model::Model;
use ft_ranks::Ranks;

use crate::watch::stop::Stop;
use crate::{Error, Result};

/// The ranks, each with the same weights, and whether they are to go on.
#[derive(Clone, Copy)]
pub struct Speakers<'a> {
    ranks: &'a Ranks,
    stop: &'a Stop,
}

impl<'a> Speakers<'a> {
    /// All of these.
    pub fn new(ranks: &'a Ranks, stop: &'a Stop) -> Self {
        Self { ranks, stop }
    }

    /// Whether answers may have been cut short.
    pub fn stopped(&self) -> bool {
        self.stop.asked()
    }

    /// Whether this is the rank that writes.
    pub fn write(&self) -> bool {
        self.ranks.is_first()
    }

    /// What `model` says to every prompt, in their order, until one is asked to stop: the answers then end where they are. Every rank calls this at
    /// the same point, and gets all answers.
    ///
    /// # Errors
    /// A model that cannot answer, at every rank; a rank that ends or says nothing.
    pub fn answer(&self, model: &Model, prompts: &[Vec<u32>], config: &GenerationConfig) -> Result<Vec<Generation>> {
        let here = self.stop.here();
        let mut each = |_: Token| go_on(here);
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        if self.ranks.is_alone() {
            return Ok(generate(model, prompts, config, &mut each)?);
        }
        let rows: Vec<usize> = (self.ranks.rank()..prompts.len()).step_by(self.ranks.size()).collect();
        let own = generate_some(model, prompts, &rows, config, &mut each);
        let own: Told = (self.stop.asked_here(), own.map_err(|error| error.to_string()));
        let all = self.ranks.all_gather(&serde_json::to_vec(&own).unwrap_or_default())?;
        let mut answers: Vec<Option<Generation>> = vec![None; prompts.len()];
        for (rank, told) in all.iter().enumerate() {
            let unreadable = |e| Error::Training(format!("what rank {rank} has answered cannot be read: {e}"));
            let (asked, said): Told = serde_json::from_slice(told).map_err(unreadable)?;
            if asked {
                self.stop.agree();
            }
            let said = said.map_err(Error::Training)?;
            let places = (rank..prompts.len()).step_by(self.ranks.size());
            places
                .zip(said)
                .for_each(|(place, answer)| answers[place] = Some(answer));
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

/// What a rank tells the others: whether it was asked to stop, and its answers.
type Told = (bool, std::result::Result<Vec<Generation>, String>);

fn go_on(stop: &AtomicBool) -> ControlFlow<()> {
    match stop.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}
