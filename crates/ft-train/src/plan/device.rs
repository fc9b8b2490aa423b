//! What a plan has to know of a device: of one of this machine, or of one that is not here.

use burn::tensor::{DType, Device};

/// Which numbers a device holds and computes with, and whether it shares the memory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTraits {
    name: String,
    here: bool,
    cpu: bool,
    /// 16-bit types that it stores.
    stored: Vec<DType>,
    /// 16-bit types that it computes in.
    computed: Vec<DType>,
}

/// The 16-bit types that checkpoints come in.
const HALVES: [DType; 2] = [DType::BF16, DType::F16];

impl DeviceTraits {
    /// Names for [`named`](Self::named).
    pub const NAMES: [&str; 5] = ["cpu", "cuda", "vulkan", "metal", "wgpu"];

    /// Of a device that is here, which `name` stands for in the records.
    pub fn of(device: &Device, name: &str) -> Self {
        let such = |has: &dyn Fn(DType) -> bool| HALVES.into_iter().filter(|dtype| has(*dtype)).collect();
        Self {
            name: name.into(),
            here: true,
            cpu: ft_kernels::is_cpu(device),
            stored: such(&|dtype| ft_model::held_as(dtype, device) == dtype),
            computed: such(&|dtype| device.supports_dtype(dtype)),
        }
    }

    /// Of what the backend `name` finds on current hardware: NVIDIA cards since Ampere and Apple's chips have both 16-bit types,
    /// Vulkan drivers too where they know `VK_KHR_shader_bfloat16`; WGSL has `f16` alone.
    pub fn named(name: &str) -> Option<Self> {
        let halves: &[DType] = match name {
            "cpu" | "cuda" | "vulkan" | "metal" => &HALVES,
            "wgpu" => &[DType::F16],
            _ => return None,
        };
        Some(Self {
            name: name.into(),
            here: false,
            cpu: name == "cpu",
            stored: halves.into(),
            computed: halves.into(),
        })
    }

    /// What stands for it in the records.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this machine has it, so that its memory, its disk and the weights can be looked at.
    pub(super) fn is_here(&self) -> bool {
        self.here
    }

    /// Whether it computes in host memory.
    pub(super) fn is_cpu(&self) -> bool {
        self.cpu
    }

    /// The type in which numbers of type `dtype` are held.
    pub(super) fn held_as(&self, dtype: DType) -> DType {
        match HALVES.contains(&dtype) && !self.stored.contains(&dtype) {
            true => DType::F32,
            false => dtype,
        }
    }

    /// Whether it computes in `dtype`.
    pub(super) fn computes_in(&self, dtype: DType) -> bool {
        !HALVES.contains(&dtype) || self.computed.contains(&dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_by_name_is_the_cpu_that_is_here() {
        let named = DeviceTraits::named("cpu").unwrap();
        let here = DeviceTraits { here: true, ..named };
        assert_eq!(here, DeviceTraits::of(&Device::flex(), "cpu"));
    }

    #[test]
    fn every_name_is_known_and_no_other() {
        assert!(
            DeviceTraits::NAMES
                .iter()
                .all(|name| DeviceTraits::named(name).is_some())
        );
        assert_eq!(DeviceTraits::named("tpu"), None);
    }
}
