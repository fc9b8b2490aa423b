//! Updates of all parameters in few launches, on the first Vulkan device of the machine, beside those one by one and the CPU's.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};

use super::{Net, Values, bits, card};
use crate::params::{Done, Path};
use crate::{Optim, OptimConfig, named_parameters, trainable_tensors};

/// More parameters than a launch takes, of which some share it: matrices with codes, one that is no whole block, biases that do not
/// decay, a tied one, and one in half precision.
#[derive(Module, Debug)]
struct Stack {
    embed: Param<Tensor<2>>,
    layers: Vec<Layer>,
    half: Param<Tensor<2>>,
    head: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Stack {
    fn new(device: &Device) -> Self {
        let mut values = Values(3);
        let embed = Param::from_tensor(values.matrix([70, 64], device));
        let mut layer = |cols| Layer {
            weight: Param::from_tensor(values.matrix([64, cols], device)),
            bias: Param::from_tensor(values.vector(7, device)),
        };
        let layers = (0..36).map(|i| layer(if i == 5 { 65 } else { 64 })).collect();
        let half = values.matrix([5, 13], device).cast(DType::F16);
        Self {
            head: embed.clone(),
            embed,
            layers,
            half: Param::from_tensor(half),
        }
    }

    /// Of every parameter but one.
    fn grads(&self, seed: u64, device: &Device) -> GradientsParams {
        let mut grads = GradientsParams::new();
        let mut values = Values(seed);
        for (i, param) in named_parameters(self).into_iter().enumerate() {
            match *param.shape.as_slice() {
                _ if i == 9 => {}
                [n] => grads.register(param.id, values.vector(n, device)),
                [n, d] => grads.register(param.id, values.matrix([n, d], device).cast(param.dtype)),
                _ => unreachable!("matrices and vectors"),
            }
        }
        grads
    }
}

/// Every parameter by itself.
struct Alone<'a> {
    optim: &'a mut Optim,
    grads: GradientsParams,
    rates: HashMap<burn::module::ParamId, f64>,
    path: Path,
    done: Done,
}

impl ModuleMapper for Alone<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let grad = self.grads.remove::<D>(param.id);
        let lr = 0.01 * self.rates.get(&param.id).copied().unwrap_or(1.0);
        let path = self.path.dotted();
        let optim = &mut *self.optim;
        let update = grad.map(|grad| move |value: Tensor<D>| optim.update(lr, &path, value, grad));
        self.done.replace(param, update)
    }
}

fn config(kind: &str) -> OptimConfig {
    serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap()
}

/// Twice the learning rate for every third parameter, as LoRA+ has it.
fn rates<M: Module>(module: &M) -> HashMap<burn::module::ParamId, f64> {
    let params = named_parameters(module).into_iter();
    params.step_by(3).map(|param| (param.id, 2.0)).collect()
}

const KINDS: [&str; 4] = ["adamw", "adamw_8bit", "paged_adamw_32bit", "muon"];

#[test]
fn together_is_one_by_one_to_the_bit() {
    let device = card();
    for kind in KINDS {
        let (mut all, mut each) = (Stack::new(&device), Stack::new(&device));
        let [mut many, mut one] = [0, 1].map(|_| Optim::new(&config(kind)).unwrap());
        many.set_rates(rates(&all));
        for step in 0..3 {
            let grads = all.grads(step, &device);
            all = many.step(0.01, all, grads);
            let (grads, rates) = (each.grads(step, &device), rates(&each));
            each = each.map(&mut Alone {
                optim: &mut one,
                grads,
                rates,
                path: Path::default(),
                done: Done::default(),
            });
        }
        assert!(bits(&all) == bits(&each), "{kind}");
        let [many, one] = [many.state_dict(&all), one.state_dict(&each)];
        assert_eq!(many.len(), one.len());
        for ((name, got), (other, want)) in many.iter().zip(&one) {
            assert_eq!(name, other);
            assert!(
                got.bytes() == want.bytes() && got.shape() == want.shape(),
                "{kind}: {name}"
            );
        }
    }
}

/// Through autodiff, with a tied, a frozen and an enumerated parameter.
#[test]
fn together_is_the_cpu() {
    let run = |device: &Device, kind| {
        let mut net = Net::new(1, &device.clone().autodiff());
        let mut optim = Optim::new(&config(kind)).unwrap();
        for step in 0..4 {
            let grads = net.grads(step, &device.clone().autodiff());
            net = optim.step(0.01, net, grads);
            assert_eq!(net.embed.id, net.head.id);
            assert_eq!(net.embed.val().to_data(), net.head.val().to_data());
            assert!(net.embed.is_require_grad() && !net.frozen.is_require_grad());
        }
        trainable_tensors(&net)
    };
    for kind in KINDS {
        let (got, want) = (run(&card(), kind), run(&Device::flex(), kind));
        for ((path, got), (_, want)) in got.into_iter().zip(want) {
            let [got, want] = [got, want].map(|data| data.try_to_vec::<f32>().unwrap());
            for (got, want) in got.iter().zip(&want) {
                // Where a gradient is near 0, AdamW's first steps follow its sign.
                assert!((got - want).abs() < 2e-4, "{kind}: {path}: {got} for {want}");
            }
        }
    }
}

/// A run that began one by one goes on together: what is saved is the same.
#[test]
fn a_saved_state_goes_on() {
    let (device, cpu) = (card(), Device::flex());
    for kind in KINDS {
        let mut there = Stack::new(&cpu);
        let mut optim = Optim::new(&config(kind)).unwrap();
        let grads = there.grads(0, &cpu);
        there = optim.step(0.01, there, grads);
        let saved = optim.state_dict(&there);

        let here = Stack::new(&device);
        let here = crate::load_trainable_tensors(here, trainable_tensors(&there)).unwrap();
        let mut resumed = Optim::new(&config(kind)).unwrap();
        resumed.load_state_dict(&here, saved).unwrap();
        let here = {
            let grads = here.grads(1, &device);
            resumed.step(0.01, here, grads)
        };
        let there = {
            let grads = there.grads(1, &cpu);
            optim.step(0.01, there, grads)
        };
        let steps = |optim: &Optim, stack: &Stack| -> Vec<_> {
            let names = optim.state_dict(stack).into_iter();
            names
                .map(|(name, data)| (name, data.shape().to_vec(), data.dtype()))
                .collect()
        };
        assert_eq!(steps(&resumed, &here), steps(&optim, &there));
        for ((path, got), (_, want)) in trainable_tensors(&here).into_iter().zip(trainable_tensors(&there)) {
            let [got, want] = [got, want].map(|data| data.convert::<f32>().try_to_vec::<f32>().unwrap());
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-3, "{kind}: {path}: {got} for {want}");
            }
        }
    }
}
