//! The trainable parameters of a module, named as a checkpoint would name them.
//!
//! Burn tells a visitor every container it enters. Fields, list indices and tuple positions become path segments;
//! the variant of an enum does not, so `q_proj.delta.Lora.a` is `q_proj.delta.a` here and a path does not change with
//! the variant a slot happens to hold.

use std::collections::{HashMap, HashSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::kind::BridgeTensor;
use burn::tensor::{DType, Device, GradientCheckpointingStrategy, Tensor, TensorData};

use crate::error::{Error, Mismatch, Result};
use crate::saved::SavedTensor;

/// One trainable float parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedParameter {
    /// Dotted path from the module's root, without enum variants.
    pub path: String,
    /// Burn's identity of the parameter: the key of its gradient. Random in every process; never write it to a file.
    pub id: ParamId,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// Where it lies, without autodiff.
    pub device: Device,
}

/// Every trainable parameter of `module`, in the module's own order; a tensor tied to several places is listed once,
/// under its first path.
///
/// A parameter frozen on an autodiff device is left out. On a plain device nothing can require a gradient, so all float
/// parameters are listed.
pub fn named_parameters<M: Module>(module: &M) -> Vec<NamedParameter> {
    let mut list = Vec::new();
    visit(module, |path, param| list.push(param.named(path)));
    list
}

/// The values of [`named_parameters`], by path.
pub fn trainable_tensors<M: Module>(module: &M) -> Vec<(String, TensorData)> {
    saved_tensors(module).into_iter().map(SavedTensor::into_pair).collect()
}

/// [`trainable_tensors`], not yet read back.
pub fn saved_tensors<M: Module>(module: &M) -> Vec<SavedTensor<'static>> {
    let mut list = Vec::new();
    visit(module, |path, param| list.push(param.saved(path)));
    list
}

/// Puts values written by [`trainable_tensors`] back, bit by bit.
///
/// # Errors
/// [`Error::Tensors`] listing every missing, unexpected and misshapen tensor; `module` must have exactly the parameters
/// that were saved.
pub fn load_trainable_tensors<M: Module>(module: M, tensors: Vec<(String, TensorData)>) -> Result<M> {
    let wanted = named_parameters(&module)
        .into_iter()
        .map(|p| (p.path, (p.shape, p.dtype)))
        .collect();
    check_forms("parameters", wanted, &tensors)?;
    let mut load = Load {
        path: Path::default(),
        tensors: tensors.into_iter().collect(),
        done: Done::default(),
    };
    Ok(module.map(&mut load))
}

/// Compares what is wanted, by name, with what a file holds.
pub(crate) fn check_forms(
    what: &'static str,
    wanted: Vec<(String, (Vec<usize>, DType))>,
    tensors: &[(String, TensorData)],
) -> Result<()> {
    let form = |data: &TensorData| (data.shape().to_vec(), data.dtype());
    let held: HashMap<&str, _> = tensors.iter().map(|(name, data)| (name.as_str(), form(data))).collect();
    let known: HashSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    let unexpected = tensors
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name.as_str()));
    let unexpected: Vec<_> = unexpected.map(|name| Mismatch::Unexpected(name.clone())).collect();
    let mut mismatches: Vec<_> = wanted
        .iter()
        .filter_map(|(name, expected)| match held.get(name.as_str()) {
            None => Some(Mismatch::Missing(name.clone())),
            Some(found) if found == expected => None,
            Some(found) => Some(Mismatch::Form {
                name: name.clone(),
                expected: expected.clone(),
                found: found.clone(),
            }),
        })
        .collect();
    mismatches.extend(unexpected);
    if mismatches.is_empty() {
        Ok(())
    } else {
        Err(Error::Tensors { what, mismatches })
    }
}

/// The path of the place a visitor or mapper is at.
#[derive(Default)]
pub(crate) struct Path {
    /// `None` for containers that add no segment.
    segments: Vec<Option<String>>,
}

impl Path {
    pub fn enter(&mut self, name: &str, container: &str) {
        let variant = container.starts_with("Enum:");
        self.segments.push((!variant).then(|| name.to_owned()));
    }

    pub fn exit(&mut self) {
        self.segments.pop();
    }

    pub fn dotted(&self) -> String {
        let named: Vec<&str> = self.segments.iter().flatten().map(String::as_str).collect();
        named.join(".")
    }
}

/// A parameter whose rank is not known at compile time.
pub(crate) trait AnyParam {
    fn named(&self, path: String) -> NamedParameter;
    fn saved(&self, path: String) -> SavedTensor<'static>;
}

impl<const D: usize> AnyParam for Param<Tensor<D>> {
    fn named(&self, path: String) -> NamedParameter {
        NamedParameter {
            path,
            id: self.id,
            shape: self.shape().to_vec(),
            dtype: self.dtype(),
            device: self.device().without_autodiff(),
        }
    }

    fn saved(&self, path: String) -> SavedTensor<'static> {
        let value = self.val();
        SavedTensor::new(path, (self.shape().to_vec(), self.dtype()), move || value.to_data())
    }
}

/// Calls `each` on every trainable parameter, once per [`ParamId`].
fn visit<M: Module>(module: &M, each: impl FnMut(String, &dyn AnyParam)) {
    module.visit(&mut Visit {
        path: Path::default(),
        seen: HashSet::new(),
        each,
    });
}

struct Visit<F> {
    path: Path,
    seen: HashSet<ParamId>,
    each: F,
}

impl<F: FnMut(String, &dyn AnyParam)> ModuleVisitor for Visit<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if trains(param) && self.seen.insert(param.id) {
            (self.each)(self.path.dotted(), param);
        }
    }
}

fn trains<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    param.is_require_grad() || !param.is_autodiff()
}

struct Load {
    path: Path,
    tensors: HashMap<String, TensorData>,
    done: Done,
}

impl ModuleMapper for Load {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let data = self.tensors.remove(&self.path.dotted());
        let load = data.map(|data| {
            let dtype = data.dtype();
            move |old: Tensor<D>| Tensor::from_data(data, (&old.device(), dtype))
        });
        self.done.replace(param, load)
    }
}

/// New values by parameter, so that a tensor tied to several places stays one.
#[derive(Default)]
pub(crate) struct Done(HashMap<ParamId, BridgeTensor>);

impl Done {
    /// The new value of a parameter.
    pub fn put(&mut self, id: ParamId, value: BridgeTensor) {
        self.0.insert(id, value);
    }

    /// Puts `change(value)` in the place of a parameter's value, if there is a change. It sees the plain tensor, without
    /// autodiff, and owns it: when nothing else shares the module's buffers, it may write in place.
    ///
    /// A parameter met before takes the value it got there instead.
    pub fn replace<const D: usize>(
        &mut self,
        param: Param<Tensor<D>>,
        change: Option<impl FnOnce(Tensor<D>) -> Tensor<D>>,
    ) -> Param<Tensor<D>> {
        let twin = self.0.get(&param.id).cloned();
        if twin.is_none() && change.is_none() {
            return param;
        }
        let (id, old, mapper) = param.consume();
        let tape = Tape::of(&old);
        let new = match (twin, change) {
            (Some(twin), _) => Tensor::from_bridge(twin),
            (None, Some(change)) => change(old.without_autodiff()),
            (None, None) => unreachable!("returned above"),
        };
        self.0.insert(id, new.clone().into_bridge());
        Param::from_mapped_value(id, tape.restore(new), mapper)
    }
}

/// Takes the value out of a parameter, the plain tensor, without autodiff, so that nothing in the module holds it. What is left there
/// waits for [`Done::replace`].
pub(crate) fn take<const D: usize>(param: Param<Tensor<D>>) -> (Param<Tensor<D>>, Tensor<D>) {
    let (id, old, mapper) = param.consume();
    let tape = Tape::of(&old);
    let value = old.without_autodiff();
    let hole = Tensor::empty([1; D], (&value.device(), value.dtype()));
    (Param::from_mapped_value(id, tape.restore(hole), mapper), value)
}

/// How a parameter took part in autodiff before its value was replaced.
struct Tape {
    require_grad: bool,
    strategy: Option<GradientCheckpointingStrategy>,
}

impl Tape {
    fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        Self {
            require_grad: tensor.is_require_grad(),
            strategy: tensor.gradient_checkpointing_strategy(),
        }
    }

    fn restore<const D: usize>(self, tensor: Tensor<D>) -> Tensor<D> {
        let Some(strategy) = self.strategy else {
            return tensor;
        };
        let tensor = tensor.autodiff().with_gradient_checkpointing_strategy(strategy);
        if self.require_grad {
            tensor.require_grad()
        } else {
            tensor
        }
    }
}
