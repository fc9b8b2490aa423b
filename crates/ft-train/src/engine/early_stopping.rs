//! Early stopping by evaluations, with a memory that checkpoints hold.

use std::sync::{Arc, Mutex, MutexGuard};

use burn::train::EarlyStoppingStrategy;
use burn::train::metric::store::EventStoreClient;

use crate::checkpoint::{Exact, Patience};
use crate::config::EarlyStopping;

/// Early stopping as burn-train asks for it, with a threshold, and with a memory that checkpoints can hold.
#[derive(Clone)]
pub struct PatientStopping {
    rule: EarlyStopping,
    memory: SharedPatience,
}

/// The memory of [`PatientStopping`], seen from both sides.
#[derive(Clone, Debug, Default)]
pub struct SharedPatience(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    patience: Patience,
    /// What the last evaluation came to, by what the best goes by.
    offered: Option<f64>,
}

impl SharedPatience {
    /// A memory that goes on from a checkpoint's.
    pub fn new(patience: Patience) -> Self {
        Self(Arc::new(Mutex::new(Memory {
            patience,
            offered: None,
        })))
    }

    /// The memory now.
    pub fn get(&self) -> Patience {
        self.lock().patience
    }

    /// The number by which the next judgement goes.
    pub fn offer(&self, score: f64) {
        self.lock().offered = Some(score);
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl PatientStopping {
    /// Stops after `rule.patience` evaluations in a row that do not lower the loss by more than `rule.threshold`.
    pub fn new(rule: EarlyStopping, memory: SharedPatience) -> Self {
        Self { rule, memory }
    }

    fn judge(&self, loss: f64) -> bool {
        let memory = &mut self.memory.lock().patience;
        let improved = memory.best.is_none_or(|best| loss < best.0 - self.rule.threshold);
        if improved {
            *memory = Patience {
                best: Some(Exact(loss)),
                failed: 0,
            };
        } else {
            memory.failed += 1;
        }
        memory.failed >= self.rule.patience
    }
}

impl EarlyStoppingStrategy for PatientStopping {
    /// burn-train's own store knows the mean over everything alone.
    fn should_stop(&mut self, _: usize, _: &EventStoreClient) -> bool {
        let score = self.memory.lock().offered.take();
        score.is_some_and(|score| self.judge(score))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_evaluations_that_do_not_improve_enough() {
        let memory = SharedPatience::default();
        let rule = PatientStopping::new(
            EarlyStopping {
                patience: 2,
                threshold: 0.1,
            },
            memory.clone(),
        );
        let stops: Vec<bool> = [3.0, 2.0, 1.95, 1.85, 1.80, 1.79].map(|loss| rule.judge(loss)).to_vec();
        assert_eq!(stops, [false, false, false, false, false, true]);
        assert_eq!(
            memory.get(),
            Patience {
                best: Some(Exact(1.85)),
                failed: 2
            }
        );
    }

    #[test]
    fn a_loss_that_is_no_number_never_improves() {
        let rule = PatientStopping::new(
            EarlyStopping {
                patience: 1,
                threshold: 0.0,
            },
            SharedPatience::default(),
        );
        assert!(!rule.judge(1.0));
        assert!(rule.judge(f64::NAN));
    }
}
