//! `--device`: the one place where a device is picked.
//!
//! What is compiled in (cargo features) and what the machine has are two questions; both get an answer in words, and
//! nothing panics. The choice is written to `BURN_DEVICE` as well, because parts of Burn fall back to
//! `Device::default()`, which would otherwise take the first backend that was compiled in.

mod several;

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

pub use several::{DevicesChoice, pick_all};

use crate::failure::Failure;

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best that is compiled in and present.
    Auto,
    Cpu,
    /// The index is the device's place among those of its backend; without one, the first, or this process's own where several are
    /// started together.
    Gpu(Gpu, Option<usize>),
}

/// A backend for graphics cards. The name is also the cargo feature and the value of `BURN_DEVICE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpu {
    Cuda,
    Metal,
    Vulkan,
    Wgpu,
}

impl Gpu {
    /// In the order in which `auto` tries them.
    const ALL: [Gpu; 4] = [Gpu::Cuda, Gpu::Metal, Gpu::Vulkan, Gpu::Wgpu];

    fn name(self) -> &'static str {
        match self {
            Gpu::Cuda => "cuda",
            Gpu::Metal => "metal",
            Gpu::Vulkan => "vulkan",
            Gpu::Wgpu => "wgpu",
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, index) = text
            .split_once(':')
            .map_or((text, None), |(name, index)| (name, Some(index)));
        let gpu = Gpu::ALL.into_iter().find(|g| g.name() == name);
        match (name, gpu, index) {
            ("auto", _, None) => Ok(Self::Auto),
            ("cpu", _, None) => Ok(Self::Cpu),
            (_, Some(gpu), None) => Ok(Self::Gpu(gpu, None)),
            (_, Some(gpu), Some(index)) => {
                let index = index.parse().map_err(|_| format!("`{index}` is no device number"))?;
                Ok(Self::Gpu(gpu, Some(index)))
            }
            ("auto" | "cpu", _, Some(_)) => Err(format!("`{name}` takes no number")),
            _ => Err("expected auto, cpu, cuda[:N], vulkan[:N], wgpu[:N] or metal".into()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(gpu, None) => f.write_str(gpu.name()),
            Self::Gpu(gpu, Some(index)) => write!(f, "{}:{index}", gpu.name()),
        }
    }
}

/// A device that is there, and how to name it to the user.
pub struct Picked {
    pub device: Device,
    pub name: String,
}

impl Picked {
    /// Whether it is the CPU backend.
    pub fn is_cpu(&self) -> bool {
        ft_kernels::is_cpu(&self.device)
    }
}

/// Turns the choice into a device. Call it once, before anything else touches a tensor.
pub fn pick(choice: DeviceChoice) -> Result<Picked, Failure> {
    match choice {
        DeviceChoice::Cpu => cpu(),
        DeviceChoice::Gpu(gpu, index) => named(gpu, index),
        DeviceChoice::Auto => match Gpu::ALL.into_iter().find_map(first_card) {
            Some((gpu, device)) => Ok(announce(gpu.name(), gpu.name().into(), device)),
            None => cpu(),
        },
    }
}

/// The same for the process with this number among those that were started together on this machine: each takes a card of its own. A launcher
/// that shows every process one card has dealt them out already.
pub fn pick_local(choice: DeviceChoice, local: usize) -> Result<Picked, Failure> {
    let gpu = match choice {
        DeviceChoice::Gpu(gpu, None) => gpu,
        DeviceChoice::Auto => match Gpu::ALL.into_iter().find_map(first_card) {
            Some((gpu, _)) => gpu,
            None => return cpu(),
        },
        DeviceChoice::Cpu | DeviceChoice::Gpu(_, Some(_)) => return pick(choice),
    };
    match present(gpu).map_or(0, |devices| devices.len()) {
        0 | 1 => named(gpu, None),
        cards if local >= cards => Err(Failure::new(format!(
            "more processes than cards on this machine: this is number {}, and there are {cards} {} devices; start {cards}, or name one with --device {}:N",
            local + 1,
            gpu.name(),
            gpu.name()
        ))),
        _ => named(gpu, Some(local)),
    }
}

fn announce(burn_device: &str, name: String, device: Device) -> Picked {
    // SAFETY: `pick` runs first thing in a verb, while the process has a single thread.
    unsafe { std::env::set_var("BURN_DEVICE", burn_device) };
    tracing::info!("device: {name}");
    Picked { device, name }
}

#[cfg(feature = "flex")]
fn cpu() -> Result<Picked, Failure> {
    Ok(announce("flex", "cpu".into(), Device::flex()))
}

#[cfg(not(feature = "flex"))]
fn cpu() -> Result<Picked, Failure> {
    Err(not_compiled("cpu", "flex"))
}

fn not_compiled(name: &str, feature: &str) -> Failure {
    Failure::wrong_use(format!(
        "`--device {name}` is not in this build; build ft with `--features {feature}` (compiled in: {})",
        compiled_in().join(", ")
    ))
}

fn compiled_in() -> Vec<&'static str> {
    let cpu = cfg!(feature = "flex").then_some("cpu");
    let gpus = Gpu::ALL.into_iter().filter(|g| present(*g).is_some()).map(Gpu::name);
    cpu.into_iter().chain(gpus).collect()
}

fn named(gpu: Gpu, index: Option<usize>) -> Result<Picked, Failure> {
    let choice = DeviceChoice::Gpu(gpu, index).to_string();
    let Some(mut devices) = present(gpu) else {
        return Err(not_compiled(&choice, gpu.name()));
    };
    let index = index.unwrap_or(0);
    if index >= devices.len() {
        let found = if devices.is_empty() {
            "none".to_string()
        } else {
            format!("{} (0..)", devices.len())
        };
        return Err(Failure::new(format!(
            "there is no `{choice}`: {} devices found: {found}{}",
            gpu.name(),
            told(&lacks(gpu))
        )));
    }
    let lacks = lacks(gpu);
    if !lacks.is_empty() {
        return Err(Failure::new(format!("`{choice}` cannot be used{}", told(&lacks))));
    }
    Ok(announce(gpu.name(), choice, devices.swap_remove(index)))
}

/// What the machine lacks to compute on a backend.
fn lacks(gpu: Gpu) -> Vec<String> {
    #[cfg(feature = "cuda")]
    if gpu == Gpu::Cuda {
        return crate::cuda::lacks();
    }
    let _ = gpu;
    Vec::new()
}

fn told(lacks: &[String]) -> String {
    lacks
        .iter()
        .map(|lack| format!("\n  this machine lacks {lack}"))
        .collect()
}

/// The first real card of a backend; a software rasterizer is slower than the CPU backend.
fn first_card(gpu: Gpu) -> Option<(Gpu, Device)> {
    let devices = present(gpu).filter(|devices| !devices.is_empty())?;
    let lacks = lacks(gpu);
    if !lacks.is_empty() {
        tracing::warn!("the {} device is left alone{}", gpu.name(), told(&lacks));
        return None;
    }
    devices.into_iter().find(|d| !is_software(gpu, d)).map(|d| (gpu, d))
}

/// The devices of a backend on this machine, without opening them. `None`: the backend is not compiled in.
fn present(gpu: Gpu) -> Option<Vec<Device>> {
    #[allow(unused_imports)]
    use burn::tensor::DeviceType;
    match gpu {
        #[cfg(feature = "cuda")]
        Gpu::Cuda => Some(Device::enumerate(DeviceType::Cuda).into_vec()),
        #[cfg(feature = "metal")]
        Gpu::Metal => Some(Device::enumerate(DeviceType::Metal).into_vec()),
        #[cfg(feature = "vulkan")]
        Gpu::Vulkan => Some(Device::enumerate(DeviceType::Vulkan).into_vec()),
        #[cfg(feature = "wgpu")]
        Gpu::Wgpu => Some(Device::enumerate(DeviceType::Wgpu).into_vec()),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

fn is_software(gpu: Gpu, device: &Device) -> bool {
    #[allow(unused_imports)]
    use burn::tensor::DeviceKind::Cpu;
    match gpu {
        #[cfg(feature = "vulkan")]
        Gpu::Vulkan => *device == Device::vulkan(Cpu),
        #[cfg(feature = "wgpu")]
        Gpu::Wgpu => *device == Device::wgpu(Cpu),
        #[allow(unreachable_patterns)]
        _ => {
            let _ = device;
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in [
            "auto", "cpu", "cuda", "cuda:0", "cuda:1", "vulkan", "vulkan:2", "wgpu:1", "metal",
        ] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda:0".parse(), Ok(DeviceChoice::Gpu(Gpu::Cuda, Some(0))));
    }

    #[test]
    fn other_names_are_refused_in_words() {
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().contains("cuda[:N]"));
        assert!("cuda:x".parse::<DeviceChoice>().unwrap_err().contains("`x`"));
        assert!("cpu:1".parse::<DeviceChoice>().unwrap_err().contains("no number"));
    }
}
