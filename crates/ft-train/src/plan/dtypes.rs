//! What the typed element types mean on a device.

use burn::tensor::{DType, FloatDType};
use ft_model::LoadDtype;

use super::DeviceTraits;
use crate::config::Dtype;
use crate::{Error, Result};

/// The type that is typed for the activations.
pub(super) fn compute(typed: Dtype) -> Option<FloatDType> {
    match typed {
        Dtype::Auto => None,
        Dtype::F32 => Some(FloatDType::F32),
        Dtype::Bf16 => Some(FloatDType::BF16),
        Dtype::F16 => Some(FloatDType::F16),
    }
}

/// Why the typed activations are a bad or impossible choice for the device.
pub(super) fn compute_fits(typed: Option<FloatDType>, device: &DeviceTraits) -> Result<Option<String>> {
    match typed {
        None | Some(FloatDType::F32) => Ok(None),
        Some(dtype) if !device.computes_in(DType::from(dtype)) => Err(Error::Plan(vec![format!(
            "model.compute: this device does not compute in {dtype:?}; leave it out, and the best type it has is taken"
        )])),
        Some(_) if device.is_cpu() => Ok(Some(
            "model.compute: the CPU has fast paths for f32 alone; leave it out (model.dtype = \"bf16\" halves the memory of the \
             weights all the same)"
                .into(),
        )),
        Some(_) => Ok(None),
    }
}

/// The type that the base is loaded in.
pub(super) fn stored(typed: Dtype, cpu: bool) -> LoadDtype {
    match typed {
        Dtype::Auto if cpu => LoadDtype::F32,
        Dtype::Auto => LoadDtype::Auto,
        Dtype::F32 => LoadDtype::F32,
        Dtype::Bf16 => LoadDtype::Bf16,
        Dtype::F16 => LoadDtype::F16,
    }
}
