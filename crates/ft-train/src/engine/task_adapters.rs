//! An adapter for each task of a mixture, over one base.
//!
//! ```text
//! in the model    one task's adapter, and its optimizer in the session
//! here            values and optimizers of the others; a task that has its turn changes places with the one in the model
//! ```
//!
//! All begin with the same values. A checkpoint holds the one in the model as it always does, and the others beside it.

use std::collections::HashMap;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::TensorData;
use ft_model::Model;
use ft_optim::Optim;

use crate::checkpoint::{TASK_ADAPTERS, read_tensors, write_tensors};
use crate::config::AdapterSharing;
use crate::continual::vector::Vector;
use crate::engine::gradient_check::GradientCheck;
use crate::{Error, Plan, Result};

/// The adapters of a run whose tasks train their own.
pub struct TaskAdapters {
    /// Those that are not in the model, by task.
    resting: Vec<Option<Resting>>,
    /// The task whose adapter is.
    present: usize,
    /// Looks at the first gradients of the first task that has a turn.
    pub check: Option<GradientCheck>,
    /// That task.
    pub checked: Option<usize>,
}

struct Resting {
    values: Vector,
    optim: Optim,
}

impl TaskAdapters {
    /// Of a plan whose tasks train adapters of their own; all start as the one in the model.
    ///
    /// # Errors
    /// An optimizer that cannot be built.
    pub fn of(plan: &Plan, model: &Model) -> Result<Option<Self>> {
        if plan.config.mixture.adapter == AdapterSharing::Shared {
            return Ok(None);
        }
        let start = |task: usize| {
            let resting = Resting {
                values: Vector::values(model).copied(),
                optim: Optim::new(&plan.config.optim)?,
            };
            Ok((task > 0).then_some(resting))
        };
        let resting = (0..plan.tasks.0.len()).map(start).collect::<Result<_>>()?;
        Ok(Some(Self {
            resting,
            present: 0,
            check: None,
            checked: None,
        }))
    }

    /// Shares of the learning rate for every optimizer.
    pub fn set_rates(&mut self, rates: &HashMap<ParamId, f64>) {
        for resting in self.resting.iter_mut().flatten() {
            resting.optim.set_rates(rates.clone());
        }
    }

    /// Puts a task's adapter into the model and its optimizer into the place of the present one's.
    pub fn wear(&mut self, task: usize, model: Model, optim: &mut Optim) -> Model {
        let Some(Resting { values, optim: own }) = self.resting[task].take() else {
            return model;
        };
        self.resting[self.present] = Some(Resting {
            values: Vector::values(&model),
            optim: std::mem::replace(optim, own),
        });
        self.present = task;
        values.put_back(model)
    }

    /// The model, on a plain device, with a task's adapter; none where it is the one in the model.
    pub fn model_of(&self, model: &Model, task: usize) -> Option<Model> {
        Some(self.resting.get(task)?.as_ref()?.values.put(model))
    }

    /// Writes what rests.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path, model: &Model) -> Result<()> {
        let mut tensors = Vec::new();
        for (task, resting) in self.resting.iter().enumerate() {
            let Some(Resting { values, optim }) = resting else {
                continue;
            };
            tensors.extend(values.saved(&values_of(task), model));
            let state = optim.state_dict(model).into_iter();
            tensors.extend(state.map(|(name, data)| (format!("{}.{name}", moments_of(task)), data)));
        }
        write_tensors(&folder.join(TASK_ADAPTERS), &tensors)
    }

    /// Reads it back. The task that is not in the file is the one in the model.
    ///
    /// # Errors
    /// What is missing, unexpected or misshapen.
    pub fn load(&mut self, folder: &Path, model: &Model) -> Result<()> {
        let path = folder.join(TASK_ADAPTERS);
        let mut tensors: HashMap<String, TensorData> = read_tensors(&path)?.into_iter().collect();
        let wrong = |why: String| Error::checkpoint(&path, why);
        let written = |task: &usize| {
            let start = format!("{}.", values_of(*task));
            tensors.keys().any(|name| name.starts_with(&start))
        };
        let absent: Vec<usize> = (0..self.resting.len()).filter(|task| !written(task)).collect();
        let [present] = absent[..] else {
            let why = format!(
                "adapters of all tasks but one expected, and {} are missing",
                absent.len()
            );
            return Err(wrong(why));
        };
        // The optimizers of a run that has taken no step are all alike.
        self.resting.swap(self.present, present);
        self.present = present;
        for (task, resting) in self.resting.iter_mut().enumerate() {
            let Some(resting) = resting else { continue };
            resting.values = Vector::load(&values_of(task), model, &mut tensors).map_err(wrong)?;
            let start = format!("{}.", moments_of(task));
            let own: Vec<String> = tensors
                .keys()
                .filter(|name| name.starts_with(&start))
                .cloned()
                .collect();
            let state = own.into_iter().filter_map(|name| {
                let data = tensors.remove(&name)?;
                Some((name[start.len()..].to_owned(), data))
            });
            resting.optim.load_state_dict(model, state.collect())?;
        }
        match tensors.keys().next() {
            None => Ok(()),
            Some(name) => Err(wrong(format!("{name}: unexpected"))),
        }
    }
}

fn values_of(task: usize) -> String {
    format!("task{task}.values")
}

fn moments_of(task: usize) -> String {
    format!("task{task}.optimizer")
}
