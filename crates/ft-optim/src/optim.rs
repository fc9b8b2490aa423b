//! The driver: one optimizer state per parameter, kept and saved by path.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::{DynOptimizer, DynState, GradientsParams, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::error::Result;
use crate::groups::Group;
use crate::optimizers::{OptimConfig, STEP};
use crate::paging::Pager;
use crate::params::{Done, NamedParameter, Path, check_forms, named_parameters, take};
use crate::saved::SavedTensor;
use crate::together::{ManyRule, Together, Updated};

/// Updates a module's parameters, each as its [`Group`] asks.
///
/// Burn's `ModuleOptimizer` would do the updates as well, and takes the same [`AdamW`](crate::AdamW), but its records are
/// keyed by [`ParamId`](burn::module::ParamId), which is random in every process, its paths hold enum variants, and it
/// loads a record onto the default device, which a binary with several backends may not even have. This driver steps
/// the same [`Optimizer`](burn::optim::Optimizer)s, through Burn's own type-erased `DynOptimizer`, and keeps their states
/// by parameter path, so that a state file needs nothing but names to find its place again.
pub struct Optim {
    config: OptimConfig,
    rules: HashMap<Group, Arc<dyn DynOptimizer>>,
    states: HashMap<String, DynState>,
    /// Share of the learning rate, where it is not all of it.
    rates: HashMap<ParamId, f64>,
    /// Where states move between the device and host memory.
    pager: Option<Pager>,
}

impl Optim {
    /// An optimizer without any state yet.
    ///
    /// # Errors
    /// [`Error::Options`](crate::Error::Options) when an option is out of range.
    pub fn new(config: &OptimConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config: config.clone(),
            rules: HashMap::new(),
            states: HashMap::new(),
            rates: HashMap::new(),
            pager: config.pages().then(Pager::default),
        })
    }

    /// Multiplies the learning rate of single parameters. Not part of the state: a resumed run sets it again.
    pub fn set_rates(&mut self, rates: HashMap<ParamId, f64>) {
        self.rates = rates;
    }

    /// One update of every parameter that has a gradient in `grads`, at learning rate `lr`.
    ///
    /// Takes the module by value: when nothing else holds its tensors, they are written in place. Graphics cards update what
    /// kernels have a rule for in few launches, with the same result.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, grads: GradientsParams) -> M {
        let mut step = Step {
            optim: self,
            lr,
            grads,
            path: Path::default(),
            done: Done::default(),
            together: Together::new(),
            taken: HashSet::new(),
        };
        let module = module.map(&mut step);
        let Step { together, taken, .. } = step;
        if taken.is_empty() {
            return module;
        }
        let mut done = Done::default();
        for Updated { path, id, value, state } in together.update() {
            self.states.insert(path, state);
            done.put(id, value);
        }
        module.map(&mut PutBack(done))
    }

    /// The rule that updates a parameter together with others. States that move have their own turn.
    fn many(&self, path: &str, shape: &[usize], device: &Device) -> Option<ManyRule> {
        let pages = self.pager.is_some() && crate::paging::pages(shape, device);
        self.config.many(Group::of(path, shape)).filter(|_| !pages)
    }

    /// One update of the parameter at `path`, for who has its gradient before those of the others: `value` and `grad` are
    /// plain tensors of one shape. Gives the new value; when nothing else holds `value`, the CPU writes it in place.
    pub fn update<const D: usize>(&mut self, lr: f64, path: &str, value: Tensor<D>, grad: Tensor<D>) -> Tensor<D> {
        let (shape, device) = (value.dims(), value.device());
        let rule = self.rule(path, &shape);
        let before = self.states.remove(path);
        let (value, after) = rule.step_dyn(D, lr, value.into_bridge(), grad.into_bridge(), before);
        if let Some(after) = after {
            self.states.insert(path.to_owned(), after);
        }
        let pages = crate::paging::pages(&shape, &device);
        if let Some(pager) = self.pager.as_mut().filter(|_| pages) {
            pager.updated(path, &rule, &device, &mut self.states);
        }
        Tensor::from_bridge(value)
    }

    /// The whole state: for every trainable parameter of `module`, in its order, the tensors of
    /// [`OptimConfig::state`] as `<path>.<name>`. A parameter that never had a gradient has only `<path>.step`, 0.
    ///
    /// Copies the states to the host.
    pub fn state_dict<M: Module>(&self, module: &M) -> Vec<(String, TensorData)> {
        self.saved_state(module)
            .into_iter()
            .map(SavedTensor::into_pair)
            .collect()
    }

    /// [`state_dict`](Self::state_dict), not yet read back. Reading in the order of the names holds the state of one parameter
    /// at a time.
    pub fn saved_state<M: Module>(&self, module: &M) -> Vec<SavedTensor<'_>> {
        let last = Rc::default();
        let params = named_parameters(module).into_iter().map(Rc::new);
        params.flat_map(|param| self.saved(param, &last)).collect()
    }

    /// Replaces all state by what [`state_dict`](Self::state_dict) gave, bit by bit, on the devices of `module`.
    ///
    /// # Errors
    /// [`Error::Tensors`](crate::Error::Tensors) listing every missing, unexpected and misshapen tensor; the present state is
    /// kept then.
    pub fn load_state_dict<M: Module>(&mut self, module: &M, tensors: Vec<(String, TensorData)>) -> Result<()> {
        let params = named_parameters(module);
        let steps = saved_steps(&tensors);
        let updated = |param: &NamedParameter| steps.get(&name(&param.path, STEP)).is_none_or(|step| *step > 0);
        let wanted = params
            .iter()
            .flat_map(|param| self.wanted(param, updated(param)))
            .collect();
        check_forms("optimizer state", wanted, &tensors)?;

        let mut source = StateSource::new(
            steps
                .iter()
                .map(|(name, step)| (name.clone(), (*step).into()))
                .collect(),
        );
        for (name, data) in tensors {
            source.insert_tensor(name, data);
        }
        self.states.clear();
        for param in params.iter().filter(|param| updated(param)) {
            let (rule, rank) = (self.rule(&param.path, &param.shape), param.shape.len());
            let home = self.home(param);
            let state = rule.state_unflatten(rank, &param.path, &mut source, &home);
            let state = state.expect("Rule::state lists what the record needs");
            self.states.insert(param.path.clone(), state);
        }
        Ok(())
    }

    /// Where the state of a parameter rests between two updates.
    fn home(&self, param: &NamedParameter) -> Device {
        let pages = self.pager.is_some() && crate::paging::pages(&param.shape, &param.device);
        if pages {
            crate::paging::host(&param.device)
        } else {
            param.device.clone()
        }
    }

    fn rule(&mut self, path: &str, shape: &[usize]) -> Arc<dyn DynOptimizer> {
        let group = Group::of(path, shape);
        let rule = self.rules.entry(group).or_insert_with(|| self.config.build(group));
        rule.clone()
    }

    fn saved(&self, param: Rc<NamedParameter>, last: &Rc<RefCell<Read>>) -> Vec<SavedTensor<'_>> {
        let forms = self.wanted(&param, self.states.contains_key(&param.path));
        let saved = |(name, form): (String, _)| {
            let (param, last, wanted) = (param.clone(), last.clone(), name.clone());
            SavedTensor::new(name, form, move || self.read(&param, &wanted, &mut last.borrow_mut()))
        };
        forms.into_iter().map(saved).collect()
    }

    /// A tensor of a parameter's state. The others, which are read back with it, wait in `last` for their turn.
    fn read(&self, param: &NamedParameter, name: &str, last: &mut Read) -> TensorData {
        if !last.iter().any(|(other, _)| other == name) {
            last.clear();
            *last = self.read_all(param);
        }
        let found = last.iter().position(|(other, _)| other == name);
        last.swap_remove(found.expect("Rule::state lists what the record needs"))
            .1
    }

    fn read_all(&self, param: &NamedParameter) -> Read {
        let path = &param.path;
        let Some(state) = self.states.get(path) else {
            return vec![(name(path, STEP), scalar(0))];
        };
        let mut sink = StateSink::default();
        let rule = self.config.build(Group::of(path, &param.shape));
        rule.state_flatten(path, state, &mut sink);
        let scalars = sink.scalars.into_iter().map(|(name, value)| {
            let value = i64::try_from(value).expect("states hold counts as scalars");
            (name, scalar(value))
        });
        sink.tensors.into_iter().chain(scalars).collect()
    }

    fn wanted(&self, param: &NamedParameter, updated: bool) -> Vec<(String, (Vec<usize>, DType))> {
        let state = self.config.state(&param.path, &param.shape);
        let kept = state.into_iter().filter(|tensor| updated || tensor.name == STEP);
        kept.map(|tensor| (name(&param.path, tensor.name), (tensor.shape, tensor.dtype)))
            .collect()
    }
}

/// Names and values.
type Read = Vec<(String, TensorData)>;

fn name(path: &str, leaf: &str) -> String {
    format!("{path}.{leaf}")
}

fn scalar(value: i64) -> TensorData {
    TensorData::new(vec![value], [0usize; 0])
}

/// The scalars among saved tensors, all of them update counts. One of another type or shape is left for the comparison
/// with the model to name; a negative one counts as 0, so that the moments beside it are named.
fn saved_steps(tensors: &[(String, TensorData)]) -> BTreeMap<String, u64> {
    let count = |data: &TensorData| match data.as_slice::<i64>() {
        Ok([value]) if data.shape().is_empty() => Some((*value).max(0) as u64),
        _ => None,
    };
    tensors
        .iter()
        .filter_map(|(name, data)| Some((name.clone(), count(data)?)))
        .collect()
}

struct Step<'a> {
    optim: &'a mut Optim,
    lr: f64,
    grads: GradientsParams,
    path: Path,
    done: Done,
    /// Updates that wait for each other, and whose they are.
    together: Together,
    taken: HashSet<ParamId>,
}

impl ModuleMapper for Step<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        if self.taken.contains(&id) {
            return take(param).0; // Tied: the value is to have no other holder.
        }
        let Some(grad) = self.grads.remove::<D>(id) else {
            return self.done.replace(param, None::<fn(Tensor<D>) -> Tensor<D>>);
        };
        let path = self.path.dotted();
        let lr = self.lr * self.optim.rates.get(&id).copied().unwrap_or(1.0);
        let optim = &mut *self.optim;
        if self.together.takes(param.dtype(), &grad)
            && let Some(rule) = optim.many(&path, &grad.dims(), &grad.device())
        {
            let (left, value) = take(param);
            let state = optim.states.remove(&path);
            self.together.push(&rule, lr, (path, id), [value, grad], state);
            self.taken.insert(id);
            return left;
        }
        self.done
            .replace(param, Some(move |value| optim.update(lr, &path, value, grad)))
    }
}

/// Puts new values where [`take`] left none.
struct PutBack(Done);

impl ModuleMapper for PutBack {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0.replace(param, None::<fn(Tensor<D>) -> Tensor<D>>)
    }
}
