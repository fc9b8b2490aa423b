//! The tensors of an adapter folder: written, and read into a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::layout::Layout;
use super::{ROOT, bias_name, shared};
use crate::attach::Choice;
use crate::error::{Error, Result};
use crate::methods::{ParamMut, PeftMethod, WeightDelta};
use crate::slots::Projection;
use crate::target_module::{Adaptable, AnyTensor, ModuleSlot, TargetModule};
use crate::tensor_file::write_tensor_file;

pub(super) fn write_tensors(path: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<()> {
    // Positions stay whole numbers.
    let stored = |data: &TensorData| match data.dtype() {
        DType::I32 => data.clone(),
        _ => data.clone().convert_dtype(DType::F32),
    };
    let stored: Vec<TensorData> = tensors.values().map(stored).collect();
    let views = tensors.keys().zip(&stored).map(|(name, data)| {
        let dtype = match data.dtype() {
            DType::I32 => Dtype::I32,
            _ => Dtype::F32,
        };
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
        (name.clone(), view.expect("shape and bytes come from one tensor"))
    });
    write_tensor_file(path, views).map_err(|source| Error::Io {
        path: path.into(),
        source,
    })
}

/// A tensor file being emptied into a model.
pub(crate) struct TensorFile {
    pub(super) path: PathBuf,
    pub(crate) tensors: BTreeMap<String, TensorData>,
    pub(crate) mismatches: Vec<String>,
}

impl TensorFile {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io {
            path: path.into(),
            source,
        })?;
        let format = |why: String| Error::Format { path: path.into(), why };
        let file =
            SafeTensors::deserialize(&bytes).map_err(|e| format(format!("not a whole safetensors file: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let values = floats(&view).ok_or_else(|| {
                format(format!(
                    "{name}: numbers of type {:?} are not supported; F32, BF16, F16 and I32 are",
                    view.dtype()
                ))
            })?;
            tensors.insert(name.to_string(), TensorData::new(values, view.shape().to_vec()));
        }
        Ok(Self {
            path: path.into(),
            tensors,
            mismatches: Vec::new(),
        })
    }

    pub(super) fn fill_module(
        &mut self,
        module: &mut TargetModule<'_>,
        choice: &Choice,
        method: &dyn PeftMethod,
        layout: &Layout,
    ) {
        let at = module.path.clone();
        let infix = method.infix(&at);
        let bias = layout.tensor(&at, bias_name(module));
        if let ModuleSlot::Projection(Projection { delta: Some(delta), .. }) = &mut module.slot {
            for name in delta.constants() {
                self.take_constant(&layout.tensor(&at, name), |data| delta.set_constant(name, data));
            }
        }
        for (name, param) in module.params() {
            let full = layout.tensor(&at, name);
            if let Some(data) = self.tensors.remove(&full) {
                self.tensors.insert(full.clone(), method.unpack(&at, name, data));
            }
            self.fill_param(&full, param);
        }
        if let ModuleSlot::Embedding(slot) = &mut module.slot {
            let base = layout.tensor(&at, "base_layer.weight");
            if slot.delta.is_some() && self.tensors.contains_key(&base) {
                let dtype = slot.weight.val().dtype();
                self.fill(&base, slot.weight.val(), |value| slot.weight.set(value.cast(dtype)));
            }
        }
        if choice.biases.contains(&module.path) {
            let leaf = module.bias().expect("only modules with a bias are listed");
            self.fill(&bias, leaf.val(), |value| leaf.set(value));
        }
        if choice.whole.contains(&module.path) {
            self.fill_whole(&layout.tensor(&at, infix), module);
        }
    }

    /// Hands a tensor that does not train to `set`, or notes why it cannot be.
    fn take_constant(&mut self, name: &str, set: impl FnOnce(TensorData) -> std::result::Result<(), String>) {
        let taken = match self.tensors.remove(name) {
            None => Err("missing from the file".into()),
            Some(data) => set(data),
        };
        self.mismatches.extend(taken.err().map(|why| format!("{name}: {why}")));
    }

    pub(super) fn fill_whole(&mut self, at: &str, module: &mut TargetModule<'_>) {
        for (leaf, present) in module.tensors() {
            let name = format!("{at}{leaf}");
            match present {
                AnyTensor::Matrix(present) => self.fill(&name, present, |value| module.set_matrix(value)),
                AnyTensor::Vector(present) => self.fill(&name, present, |value| module.set_vector(leaf, value)),
            }
        }
    }

    /// Each shared constant once, for every module that uses it.
    pub(super) fn fill_shared(&mut self, model: &mut impl Adaptable) {
        let mut read = BTreeMap::new();
        for (name, present) in shared(model) {
            self.fill(&name, present, |value| {
                read.insert(name.clone(), value);
            });
        }
        for module in model.target_modules() {
            if let ModuleSlot::Projection(Projection { delta: Some(delta), .. }) = module.slot {
                for (name, tensor) in delta.shared() {
                    if let Some(value) = read.get(&format!("{ROOT}{name}")) {
                        *tensor = value.clone();
                    }
                }
            }
        }
    }

    fn fill_param(&mut self, name: &str, param: ParamMut<'_>) {
        match param {
            ParamMut::Vector(param) => self.fill(name, param.val(), |value| replace(param, value)),
            ParamMut::Matrix(param) => self.fill(name, param.val(), |value| replace(param, value)),
        }
    }

    /// Hands the tensor `name` to `set`, or notes why it cannot be.
    pub(super) fn fill<const D: usize>(&mut self, name: &str, present: Tensor<D>, set: impl FnOnce(Tensor<D>)) {
        let Some(data) = self.tensors.remove(name) else {
            return self.mismatches.push(format!("{name}: missing from the file"));
        };
        let (expected, found) = (present.dims().to_vec(), data.shape().to_vec());
        if expected != found {
            return self
                .mismatches
                .push(format!("{name}: the model needs {expected:?}, the file has {found:?}"));
        }
        let device: Device = present.device();
        set(Tensor::from_data(data, &device));
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        let unused = self
            .tensors
            .keys()
            .map(|name| format!("{name}: nothing in this model takes it"));
        self.mismatches.extend(unused);
        if self.mismatches.is_empty() {
            return Ok(());
        }
        Err(Error::Mismatch {
            path: self.path,
            mismatches: self.mismatches,
        })
    }
}

fn replace<const D: usize>(param: &mut Param<Tensor<D>>, value: Tensor<D>) {
    let trains = param.is_require_grad();
    *param = Param::initialized(param.id, value).set_require_grad(trains);
}

fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let pairs = || view.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match view.dtype() {
        Dtype::F32 => Some(
            view.data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        ),
        // Positions in matrices, all far below 2²⁴, from where on an f32 would leave some out.
        Dtype::I32 => Some(
            view.data()
                .chunks_exact(4)
                .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32)
                .collect(),
        ),
        Dtype::BF16 => Some(pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect()),
        Dtype::F16 => Some(pairs().map(|bits| f16::from_bits(bits).to_f32()).collect()),
        _ => None,
    }
}
