//! LoRA+'s groups against PEFT's `create_loraplus_optimizer`: which parameter learns at which rate, and which decay.

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model};
use ft_optim::{Optim, OptimConfig, decays, named_parameters};
use ft_peft::{Adaptable, ModuleSlot, ParamMut, PeftConfig, adapter, rates};
use ft_quant::{Leaf, Storage};

use crate::support::fixture;

const LR: f64 = 1e-3;

/// What trains, by its name in PEFT's file.
fn parameters(model: &mut Model, choice: &ft_peft::Choice) -> BTreeMap<String, ParamId> {
    let mut all = BTreeMap::new();
    fn own<const D: usize>(leaf: &Leaf<D>) -> Option<ParamId> {
        match leaf {
            Leaf::Trained(param) => Some(param.id),
            Leaf::Frozen(_) => None,
        }
    }
    for mut module in model.target_modules() {
        let path = module.path.clone();
        let adapted = choice.adapted.contains(&path);
        for (name, param) in module.params() {
            let id = match param {
                ParamMut::Vector(param) => param.id,
                ParamMut::Matrix(param) => param.id,
            };
            all.insert(format!("{path}.{name}"), id);
        }
        let bias = module.bias().and_then(|bias| own(bias));
        let name = if adapted { "base_layer.bias" } else { "bias" };
        all.extend(bias.map(|id| (format!("{path}.{name}"), id)));
        let weight = match &module.slot {
            ModuleSlot::Projection(slot) => match &slot.weight.value {
                Storage::Dense(leaf) => own(leaf),
                Storage::Packed(_) => None,
            },
            ModuleSlot::Norm(slot) => own(&slot.weight),
            _ => None,
        };
        all.extend(weight.map(|id| (format!("{path}.weight"), id)));
    }
    all
}

#[test]
fn every_parameter_is_in_the_group_that_peft_puts_it_into() {
    let text = std::fs::read_to_string(fixture("peft/loraplus.json")).unwrap();
    let golden: BTreeMap<String, BTreeMap<String, [f64; 2]>> = serde_json::from_str(&text).unwrap();
    assert_eq!(golden.len(), 6);
    for (case, groups) in golden {
        let base = match case.as_str() {
            "lora_bias_all" => "families/qwen2",
            "lora_gpt2_bias_all" => "families/gpt2",
            _ => "peft/base",
        };
        let mut model = Model::load(&fixture(base), LoadDtype::F32, &Device::flex().autodiff()).unwrap();
        let (mut config, attached) = adapter::load(&fixture("peft").join(&case), &mut model).unwrap();
        let PeftConfig::Lora(lora) = &mut config else {
            panic!("{case}")
        };
        lora.loraplus_lr_ratio = Some(16.0);
        lora.loraplus_lr_embedding = Some(5e-5);
        let rates = rates(&mut model, &config, LR);
        let paths: BTreeMap<ParamId, String> = named_parameters(&model).into_iter().map(|p| (p.id, p.path)).collect();
        let found = parameters(&mut model, &attached.choice);
        assert!(
            found.keys().eq(groups.keys()),
            "{case}: {:?} and {:?}",
            found.keys(),
            groups.keys()
        );
        for (name, id) in found {
            let [rate, decay] = groups[&name];
            let ours = LR * rates.get(&id).copied().unwrap_or(1.0);
            assert!((ours - rate).abs() < 1e-12, "{case} {name}: {ours}, expected {rate}");
            assert_eq!(decays(&paths[&id]), decay > 0.0, "{case} {name}");
        }
    }
}

#[derive(Module, Debug)]
struct Pair {
    a: Param<Tensor<1>>,
    b: Param<Tensor<1>>,
}

#[test]
fn a_share_of_the_rate_is_a_share_of_the_step() {
    let device = Device::flex().autodiff();
    let one = || Param::from_tensor(Tensor::<1>::from_floats([1.0], &device));
    let model = Pair { a: one(), b: one() };
    let mut optim = Optim::new(&OptimConfig::default()).unwrap();
    optim.set_rates([(model.b.id, 16.0)].into());
    let grads = GradientsParams::from_grads((model.a.val() + model.b.val()).backward(), &model);
    let model = optim.step(1e-3, model, grads);
    let moved = |p: &Param<Tensor<1>>| 1.0 - p.val().into_scalar::<f32>();
    let ratio = moved(&model.b) / moved(&model.a);
    assert!((ratio - 16.0).abs() < 1e-2, "{ratio}");
}
