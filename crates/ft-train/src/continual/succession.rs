//! What becomes of the adapter where a task ends and another follows.
//!
//! ```text
//! continue   it goes on, with its moments
//! fold       it becomes a part of the base, and a fresh one starts: the result is a whole checkpoint
//! freeze     it stays in use as a constant, and a fresh one starts beside it: the result is one LoRA of all their ranks (O-LoRA)
//! separate   it is put aside, and a fresh one starts over the same base: the result is an adapter for each task
//! ```
//!
//! A fresh adapter has fresh moments, and starting values that are a function of (seed, task). What a checkpoint holds of an earlier task are
//! the values that its adapter ended with: what was done with them is done again when a run goes on.

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::TensorData;
use ft_data::sub_seed;
use ft_model::Model;
use ft_peft::PeftConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::vector::Vector;
use crate::Result;

/// `continual.between_tasks`: what becomes of the adapter where a task ends and another follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BetweenTasks {
    /// It goes on.
    #[default]
    Continue,
    /// It becomes a part of the base, and a fresh one starts.
    Fold,
}

/// The same with what strategies decide themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Continue,
    /// It becomes a part of the base.
    Fold,
    /// It stays in use as a constant.
    Freeze,
    /// It is put aside.
    Separate,
}

impl Next {
    /// Its name in `continual.json`.
    pub fn name(self) -> &'static str {
        match self {
            Next::Continue => "continue",
            Next::Fold => "fold",
            Next::Freeze => "freeze",
            Next::Separate => "separate",
        }
    }

    /// Adapters in f32 that a run over `tasks` holds beside the one that trains.
    pub fn kept(self, tasks: usize) -> usize {
        match self {
            // In the model, and as they are saved.
            Next::Freeze => 2 * self.saved(tasks),
            _ => self.saved(tasks),
        }
    }

    /// Adapters of earlier tasks in the last checkpoint.
    pub fn saved(self, tasks: usize) -> usize {
        match self {
            Next::Continue => 0,
            _ => tasks.saturating_sub(1),
        }
    }
}

impl From<BetweenTasks> for Next {
    fn from(typed: BetweenTasks) -> Self {
        match typed {
            BetweenTasks::Continue => Next::Continue,
            BetweenTasks::Fold => Next::Fold,
        }
    }
}

/// Adapters one after the other, each fresh.
#[derive(Debug)]
pub struct Succession {
    next: Next,
    peft: PeftConfig,
    seed: u64,
    /// What every earlier task's adapter ended with.
    ended: Vec<Vector>,
}

impl Succession {
    /// Of a method; none where the adapter goes on.
    pub fn new(next: Next, peft: &PeftConfig, seed: u64) -> Option<Self> {
        (next != Next::Continue).then(|| Self {
            next,
            peft: peft.clone(),
            seed,
            ended: Vec::new(),
        })
    }

    /// What becomes of an adapter.
    pub fn next(&self) -> Next {
        self.next
    }

    /// A task has ended with these values: the model for the next one.
    ///
    /// # Errors
    /// An adapter that cannot be folded or attached.
    pub fn follow(&mut self, model: Model) -> Result<Model> {
        let values = Vector::values(&model).copied();
        let model = self.fresh(model, self.ended.len() + 1)?;
        self.ended.push(values);
        Ok(model)
    }

    /// The model with the adapter that task number `task` starts with.
    fn fresh(&self, mut model: Model, task: usize) -> Result<Model> {
        let seed = sub_seed(self.seed, &format!("init of task {task}"));
        match self.next {
            Next::Continue => {}
            Next::Fold => {
                ft_peft::fold(&mut model)?;
                ft_peft::attach(&mut model, &self.peft, seed)?;
            }
            Next::Freeze => {
                ft_peft::stack(&mut model, &self.peft, seed)?;
            }
            Next::Separate => {
                ft_peft::attach(&mut model, &self.peft, seed)?;
            }
        }
        Ok(model)
    }

    /// The model, on a plain device, as it is for one of the tasks, or for text of none of them; none where it is one model for all. A task
    /// that has not begun has its fresh adapter.
    pub fn model_of(&self, model: &Model, task: Option<usize>) -> Result<Option<Model>> {
        if self.next != Next::Separate {
            return Ok(None);
        }
        let Some(task) = task else {
            let mut base = model.clone();
            ft_peft::detach(&mut base);
            return Ok(Some(base.valid()));
        };
        Ok(match self.ended.get(task) {
            Some(values) => Some(values.put(model)),
            None if task == self.ended.len() => None,
            None => Some(self.fresh(model.clone(), task)?.valid()),
        })
    }

    /// What a checkpoint must hold.
    pub fn state(&self, model: &Model) -> Vec<(String, TensorData)> {
        let ended = self.ended.iter().enumerate();
        ended
            .flat_map(|(task, values)| values.saved(&format!("task{task}"), model))
            .collect()
    }

    /// The model of a run that goes on, from the one that it started with.
    ///
    /// # Errors
    /// What does not fit, or what is missing.
    pub fn restore(
        &mut self,
        mut model: Model,
        tensors: Vec<(String, TensorData)>,
    ) -> std::result::Result<Model, String> {
        let tasks = tensors.iter().filter_map(|(name, _)| {
            let number = name.strip_prefix("task")?.split_once('.')?.0;
            number.parse::<usize>().ok()
        });
        let ended = tasks.max().map_or(0, |last| last.saturating_add(1));
        let mut tensors: HashMap<String, TensorData> = tensors.into_iter().collect();
        for task in 0..ended {
            let values = Vector::load(&format!("task{task}"), &model, &mut tensors)?;
            model = self.follow(values.put_back(model)).map_err(|e| e.to_string())?;
        }
        match tensors.keys().next() {
            None => Ok(model),
            Some(name) => Err(format!("{name}: unexpected")),
        }
    }
}
