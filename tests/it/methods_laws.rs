//! What every method must keep, over every method in one place.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_peft::{Adaptable, AnyTensor, ModuleSlot, Pass, PeftConfig, adapter, attach, fold, preview};
use ft_quant::Leaf;

use crate::methods_held::each;
use crate::support::{arrays, fixture};

/// Method options as in section `[peft]`, and whether the adapted model starts as the base.
pub const METHODS: &[(&str, bool)] = &[
    (r#"{"method": "lora", "rank": 2}"#, true),
    (r#"{"method": "lora", "rank": 2, "init": "olora"}"#, true),
    (r#"{"method": "lora", "rank": 2, "dora": true}"#, true),
    (r#"{"method": "lora", "rank": 2, "dora": true, "init": "olora"}"#, true),
    (r#"{"method": "adalora", "init_r": 2, "target_r": 1}"#, true),
    (r#"{"method": "ia3"}"#, true),
    (r#"{"method": "trainable_tokens", "token_indices": [9, 5, 17]}"#, true),
    (
        r#"{"method": "lora", "rank": 2, "trainable_token_indices": [9, 5, 17]}"#,
        true,
    ),
    (r#"{"method": "loha", "rank": 2}"#, true),
    (r#"{"method": "loha", "rank": 7}"#, true),
    (r#"{"method": "lokr", "rank": 2}"#, true),
    (r#"{"method": "oft", "block_size": 8}"#, true),
    (
        r#"{"method": "oft", "block_size": 4, "block_share": true, "cayley_neumann": false}"#,
        true,
    ),
    (r#"{"method": "ln_tuning"}"#, true),
    (r#"{"method": "bitfit"}"#, true),
    (r#"{"method": "vera", "rank": 8}"#, true),
    (
        r#"{"method": "vera", "rank": 48, "save_projection": false, "projection_seed": 7}"#,
        true,
    ),
    (
        r#"{"method": "lokr", "rank": 1, "decompose_both": true, "factor": 4}"#,
        true,
    ),
    (r#"{"method": "shira", "rank": 2}"#, true),
    (r#"{"method": "miss", "rank": 4}"#, true),
    (r#"{"method": "miss", "rank": 5}"#, true),
    (r#"{"method": "miss", "rank": 4, "init_weights": "bat"}"#, true),
    (
        r#"{"method": "miss", "rank": 4, "init_weights": "mini", "mini_r": 8}"#,
        true,
    ),
    (r#"{"method": "gralora", "rank": 4}"#, true),
    (
        r#"{"method": "gralora", "rank": 8, "gralora_k": 4, "hybrid_r": 2}"#,
        true,
    ),
    (r#"{"method": "osf"}"#, true),
    (r#"{"method": "osf", "effective_rank": 0.75}"#, true),
    (r#"{"method": "parallel"}"#, true),
    (
        r#"{"method": "parallel", "mh_adapter": true, "leave_out": [0], "non_linearity": "gelu"}"#,
        true,
    ),
    (r#"{"method": "pfeiffer", "reduction_factor": 4}"#, false),
    (
        r#"{"method": "pfeiffer", "init_weights": "mam_adapter", "non_linearity": "tanh"}"#,
        true,
    ),
    (
        r#"{"method": "houlsby", "reduction_factor": {"1": 4, "default": 8}}"#,
        false,
    ),
    (
        r#"{"method": "houlsby", "init_weights": "houlsby", "non_linearity": "gelu_new", "name": "n"}"#,
        false,
    ),
    (r#"{"method": "prompt_tuning", "num_virtual_tokens": 3}"#, false),
    (
        r#"{"method": "p_tuning", "num_virtual_tokens": 3, "encoder_hidden_size": 6}"#,
        false,
    ),
    (
        r#"{"method": "p_tuning", "num_virtual_tokens": 3, "encoder_reparameterization_type": "lstm", "encoder_num_layers": 1}"#,
        false,
    ),
    (r#"{"method": "prefix_tuning", "num_virtual_tokens": 3}"#, false),
    (
        r#"{"method": "prefix_tuning", "num_virtual_tokens": 3, "prefix_projection": true, "init_weights": "zero"}"#,
        false,
    ),
    (
        r#"{"method": "p_tuning_v2", "num_virtual_tokens": 3, "init_weights": "zero"}"#,
        false,
    ),
];

pub const BASES: [&str; 3] = ["families/llama", "families/qwen2", "families/gpt2"];

pub fn config(options: &str) -> PeftConfig {
    serde_json::from_str(options).unwrap_or_else(|e| panic!("{options}: {e}"))
}

pub fn base(name: &str, device: &Device) -> Model {
    Model::load(&fixture(name), LoadDtype::F32, device).unwrap()
}

fn logits(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()))
}

/// Largest difference, relative to the largest of `b`.
fn distance(a: Tensor<3>, b: Tensor<3>) -> f32 {
    let scale = b.clone().abs().max().into_scalar::<f32>();
    (a - b).abs().max().into_scalar::<f32>() / scale
}

/// Moves everything that trains away from its start, by a pattern of its own.
pub fn disturb(model: &mut Model) {
    use ft_peft::ParamMut;
    fn moved<const D: usize>(value: Tensor<D>) -> Tensor<D> {
        let shape = value.dims();
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| 0.05 * (1.0 + i as f32 * 0.7).sin()).collect();
        let device = value.device();
        let noise = Tensor::<1>::from_floats(values.as_slice(), &device.clone().inner()).reshape(shape);
        // A new leaf: what moved it is no part of the function.
        let moved = value.inner() + noise;
        if device.is_autodiff() {
            moved.autodiff().require_grad()
        } else {
            moved
        }
    }
    for mut module in model.target_modules() {
        for (_, param) in module.params() {
            match param {
                ParamMut::Vector(p) => *p = p.clone().map(moved),
                ParamMut::Matrix(p) => *p = p.clone().map(moved),
            }
        }
        let vector = |leaf: &mut Leaf<1>| {
            if leaf.is_trained() {
                leaf.set(moved(leaf.val()));
            }
        };
        match &mut module.slot {
            ModuleSlot::Norm(norm) => {
                vector(&mut norm.weight);
                norm.bias.iter_mut().for_each(vector);
            }
            ModuleSlot::Projection(slot) => slot.bias.iter_mut().for_each(vector),
            _ => {}
        }
        if let Some(tokens) = module.virtual_tokens() {
            let mut state: BTreeMap<String, AnyTensor> = tokens.state().into_iter().collect();
            tokens.load_state(&mut |name| match state.remove(name).unwrap() {
                AnyTensor::Vector(t) => AnyTensor::Vector(moved(t)),
                AnyTensor::Matrix(t) => AnyTensor::Matrix(moved(t)),
            });
        }
    }
}

#[test]
fn the_adapted_model_starts_as_the_base() {
    each(|what, held, identity, config| {
        let mut model = held.load(&Device::flex());
        let before = logits(&model);
        attach(&mut model, config, 3).unwrap();
        let moved = distance(logits(&model), before);
        let bound = 1e-4 + held.rounding_at_start(what);
        assert_eq!(moved < bound, identity, "{what}: moved by {moved:e}");
    });
}

#[test]
fn merging_keeps_the_function() {
    each(|what, held, _, config| {
        if !config.method().merges() {
            return;
        }
        let mut model = held.load(&Device::flex());
        let start = logits(&model);
        attach(&mut model, config, 3).unwrap();
        disturb(&mut model);
        let adapted = logits(&model);
        let moved = distance(adapted.clone(), start);
        assert!(moved > 1e-3, "{what}: the disturbance moved nothing ({moved:e})");
        fold(&mut model).unwrap();
        assert_eq!(model.num_params(), 0, "{what}");
        let merged = distance(logits(&model), adapted);
        assert!(
            merged < 2e-5 + held.rounding(),
            "{what}: merging moved the logits by {merged:e}"
        );
    });
}

#[test]
fn only_what_was_previewed_trains() {
    each(|what, held, _, config| {
        let mut model = held.load(&Device::flex().autodiff());
        let expected = preview(&model.config().module_specs(), config).unwrap();
        assert_eq!(attach(&mut model, config, 3).unwrap(), expected, "{what}");
        assert_eq!(model.num_params(), expected.parameters, "{what}");
        assert!(expected.parameters > 0, "{what}");
        let grads = logits(&model).powf_scalar(2.0).sum().backward();
        for mut module in model.target_modules() {
            let path = module.path.clone();
            for (leaf, tensor) in module.tensors() {
                let trains =
                    expected.choice.whole.contains(&path) || (leaf == "bias" && expected.choice.biases.contains(&path));
                let has_gradient = match tensor {
                    AnyTensor::Vector(t) => t.grad(&grads).is_some(),
                    AnyTensor::Matrix(t) => t.grad(&grads).is_some(),
                };
                assert_eq!(has_gradient, trains, "{what}: {path}.{leaf}");
            }
        }
    });
}

#[test]
fn saving_what_was_loaded_gives_the_same_bytes() {
    each(|what, held, _, config| {
        let mut model = held.load(&Device::flex());
        attach(&mut model, config, 3).unwrap();
        disturb(&mut model);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        adapter::save(one.path(), &mut model, config, "some/base").unwrap();
        let mut again = held.load(&Device::flex());
        let (read, _) = adapter::load(one.path(), &mut again).unwrap();
        let moved = distance(logits(&model), logits(&again));
        assert!(moved < 2e-5 + held.rounding_at_start(what), "{what}: {moved:e}");
        adapter::save(two.path(), &mut again, &read, "some/base").unwrap();
        let weights = adapter::weights_file(one.path()).unwrap();
        for file in ["adapter_config.json", weights.file_name().unwrap().to_str().unwrap()] {
            let bytes = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(file)).unwrap();
            assert!(bytes(&one) == bytes(&two), "{what}: {file}");
        }
    });
}

#[test]
fn dropout_acts_in_training_alone_and_not_on_the_start() {
    for options in [
        r#"{"method": "lora", "rank": 2, "dora": true, "dropout": 0.5}"#,
        r#"{"method": "vera", "rank": 8, "dropout": 0.5}"#,
        r#"{"method": "miss", "rank": 4, "dropout": 0.5}"#,
        r#"{"method": "gralora", "rank": 4, "hybrid_r": 2, "dropout": 0.5}"#,
        r#"{"method": "parallel", "dropout": 0.5}"#,
        r#"{"method": "houlsby", "dropout": 0.5, "init_weights": "mam_adapter"}"#,
    ] {
        let mut model = base("families/llama", &Device::flex());
        let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
        let hidden = |model: &Model, pass: Pass| model.forward(ids.clone(), &Rows::Right, None, &pass);
        let before = hidden(&model, Pass::eval());
        attach(&mut model, &config(options), 3).unwrap();
        let start = distance(hidden(&model, Pass::train(7)), before);
        assert!(start < 1e-5, "{options}: dropout moved the start by {start:e}");
        disturb(&mut model);
        let seven = hidden(&model, Pass::train(7));
        assert_eq!(
            distance(hidden(&model, Pass::train(7)), seven.clone()),
            0.0,
            "{options}"
        );
        assert!(
            distance(hidden(&model, Pass::train(8)), seven.clone()) > 1e-3,
            "{options}"
        );
        assert!(distance(hidden(&model, Pass::eval()), seven) > 1e-3, "{options}");
    }
}

#[test]
fn doras_ratio_is_computed_once_while_nothing_trains_and_never_stale() {
    let mut model = base("families/llama", &Device::flex());
    attach(&mut model, &config(r#"{"method": "lora", "rank": 2, "dora": true}"#), 3).unwrap();
    disturb(&mut model);
    let first = logits(&model);
    assert_eq!(
        distance(logits(&model), first.clone()),
        0.0,
        "the second pass takes what the first computed"
    );
    let training = {
        let mut model = base("families/llama", &Device::flex().autodiff());
        attach(&mut model, &config(r#"{"method": "lora", "rank": 2, "dora": true}"#), 3).unwrap();
        disturb(&mut model);
        logits(&model).inner()
    };
    assert!(distance(first.clone(), training) < 1e-6, "training computes the same");
    // Whoever can change a parameter goes through `params` or `map`.
    disturb(&mut model);
    let moved = logits(&model);
    assert!(distance(moved.clone(), first) > 1e-3, "new values are seen");
    let (one, mut again) = (tempfile::tempdir().unwrap(), base("families/llama", &Device::flex()));
    adapter::save(
        one.path(),
        &mut model,
        &config(r#"{"method": "lora", "rank": 2, "dora": true}"#),
        "some/base",
    )
    .unwrap();
    adapter::load(one.path(), &mut again).unwrap();
    assert!(distance(logits(&again), moved) < 1e-6);
    struct Double;
    impl burn::module::ModuleMapper for Double {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<D>>,
        ) -> burn::module::Param<Tensor<D>> {
            param.map(|value| value * 2.0)
        }
    }
    let before = logits(&again);
    let mapped = again.clone().map(&mut Double);
    let fresh = logits(&mapped);
    assert!(distance(fresh.clone(), before) > 1e-3, "a mapped module starts anew");
    assert!(distance(logits(&mapped.clone()), fresh) < 1e-6, "and so does a clone");
}

#[test]
fn an_emptied_slot_leaves_the_base() {
    each(|what, held, _, config| {
        let mut model = held.load(&Device::flex());
        let before = logits(&model);
        let attached = attach(&mut model, config, 3).unwrap();
        // What moves or trains the base's own tensors cannot be taken off.
        if what.contains("olora") || attached.choice.adapted.is_empty() {
            return;
        }
        disturb(&mut model);
        model.target_modules().iter_mut().for_each(|module| module.clear());
        assert_eq!(distance(logits(&model), before), 0.0, "{what}");
    });
}
