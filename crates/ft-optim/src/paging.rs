//! Optimizer states that rest in host memory and visit the device for their own update alone.
//!
//! ```text
//! update of        i-1            i             i+1
//! states to device  i ───────────> i+1 ────────> i+2        asked for one update ahead: the copy overlaps the backward
//! states to host        i-2 <────────── i-1 <──────── i     pass or update before it
//! ```
//!
//! At most three states are on the device at once. The order of the updates is learned from the step before.

use std::collections::HashMap;
use std::sync::Arc;

use burn::optim::{DynOptimizer, DynState};
use burn::tensor::Device;

/// Parameters below this size keep their state on the device, as bitsandbytes' paged optimizers do: moving it would cost
/// more than it frees.
const SMALLEST: usize = 100_000;

/// Whether the state of a parameter moves at all. On the CPU it is in host memory as it is.
pub(crate) fn pages(shape: &[usize], device: &Device) -> bool {
    shape.iter().product::<usize>() >= SMALLEST && *device != host(device)
}

/// Where states of parameters on `device` rest.
#[cfg(feature = "flex")]
pub(crate) fn host(_device: &Device) -> Device {
    Device::flex()
}

/// Without a CPU backend there is nowhere to go; [`OptimConfig::check`](crate::OptimConfig::check) refuses to page then.
#[cfg(not(feature = "flex"))]
pub(crate) fn host(device: &Device) -> Device {
    device.clone()
}

/// Moves states between the host and the device.
#[derive(Default)]
pub(crate) struct Pager {
    /// Which parameter was updated after which.
    next: HashMap<String, String>,
    /// The one updated last: its state is still on the device.
    last: Option<(String, Arc<dyn DynOptimizer>)>,
}

impl Pager {
    /// Takes note of an update of `path`: fetches the state that is needed next, and sends the one before to the host.
    pub fn updated(
        &mut self,
        path: &str,
        rule: &Arc<dyn DynOptimizer>,
        device: &Device,
        states: &mut HashMap<String, DynState>,
    ) {
        if let Some(next) = self.next.get(path) {
            relocate(next, rule, device, states);
        }
        let before = self.last.replace((path.to_owned(), rule.clone()));
        if let Some((before, rule)) = before.filter(|(before, _)| before != path) {
            relocate(&before, &rule, &host(device), states);
            self.next.insert(before, path.to_owned());
        }
    }
}

fn relocate(path: &str, rule: &Arc<dyn DynOptimizer>, to: &Device, states: &mut HashMap<String, DynState>) {
    if let Some(state) = states.remove(path) {
        states.insert(path.to_owned(), rule.to_device_dyn(state, to));
    }
}
