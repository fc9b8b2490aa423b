//! LoRA against PEFT: logits, gradients, AdamW steps, merged logits, files both ways.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_optim::{Optim, OptimConfig};
use ft_peft::methods::lora::{Init, LoraConfig};
use ft_peft::{Adaptable, AnyTensor, Delta, EmbeddingDelta, ModuleSlot, Pass, PeftConfig, adapter, attach, fold};

use crate::production::{close_loss, in_gradients, peft_step};
use crate::support::{Array, arrays, close, fixture};

/// Case, its base, and whether the AdamW steps can be compared (see the fixtures' README).
const CASES: [(&str, &str, bool); 15] = [
    ("lora_qv", "peft/base", true),
    ("lora_all_rslora", "peft/base", true),
    ("lora_embed", "peft/base", true),
    ("lora_mts_head", "peft/base", true),
    ("lora_rank_pattern", "peft/base", false),
    ("lora_rank_pattern_stable", "peft/base", true),
    ("lora_alpha_pattern", "peft/base", true),
    ("lora_layers", "peft/base", true),
    ("lora_regex", "peft/base", true),
    ("lora_all_linear", "families/qwen3", true),
    ("lora_bias_only", "families/qwen2", true),
    ("lora_bias_all", "families/qwen2", true),
    ("lora_gpt2", "families/gpt2", true),
    ("lora_gpt2_bias_all", "families/gpt2", true),
    ("lora_pissa", "peft/base", true),
];

fn dir(case: &str) -> PathBuf {
    fixture("peft").join(case)
}

fn base(name: &str, device: &Device) -> Model {
    Model::load(&fixture(name), LoadDtype::F32, device).unwrap()
}

fn adapted(case: &str, base_name: &str, device: &Device) -> (Model, PeftConfig) {
    let mut model = base(base_name, device);
    let (config, _) = adapter::load(&dir(case), &mut model).unwrap();
    (model, config)
}

fn forward() -> BTreeMap<String, Array> {
    arrays(&fixture("peft/base_forward.safetensors"))
}

fn logits(model: &Model) -> Tensor<3> {
    let ids = forward()["input_ids"].ids(&model.device());
    model
        .logits(model.forward(ids, &Rows::Right, None, &Pass::eval()))
        .inner_or_self()
}

/// `x.inner()` on an autodiff device, `x` elsewhere.
trait InnerOrSelf {
    fn inner_or_self(self) -> Self;
}

impl<const D: usize> InnerOrSelf for Tensor<D> {
    fn inner_or_self(self) -> Self {
        self.without_autodiff()
    }
}

/// What trains, under the names of the golden arrays less PEFT's decorations.
fn trainable(model: &mut Model) -> BTreeMap<String, AnyTensor> {
    let mut out = BTreeMap::new();
    for mut module in model.target_modules() {
        let path = module.path.clone();
        let mut put = |name: &str, tensor| out.insert(format!("{path}.{name}"), tensor);
        match &module.slot {
            ModuleSlot::Projection(slot) => {
                if let Some(Delta::Lora(lora)) = &slot.delta {
                    put("lora_A.weight", AnyTensor::Matrix(lora.a.val()));
                    put("lora_B.weight", AnyTensor::Matrix(lora.b.val()));
                }
            }
            ModuleSlot::Embedding(slot) => {
                if let Some(EmbeddingDelta::Lora(lora)) = &slot.delta {
                    put("lora_embedding_A", AnyTensor::Matrix(lora.a.val()));
                    put("lora_embedding_B", AnyTensor::Matrix(lora.b.val()));
                }
            }
            _ => {}
        }
        let bias_trains = module.bias().is_some_and(|bias| bias.is_trained());
        let trains = module.is_trained();
        for (leaf, tensor) in module.tensors() {
            let weight_trains = trains && !bias_trains;
            if (leaf == "bias" && bias_trains) || (leaf == "weight" && weight_trains) {
                out.insert(format!("{path}.{leaf}"), tensor);
            }
        }
    }
    out
}

/// The golden arrays under `group.`, less PEFT's decorations of names.
fn golden_group(golden: &BTreeMap<String, Array>, group: &str) -> BTreeMap<String, Array> {
    let plain = |name: &str| {
        let name = name.strip_prefix(group)?.strip_prefix(".base_model.model.")?;
        Some(
            name.replace(".default", "")
                .replace(".modules_to_save", "")
                .replace(".base_layer", ""),
        )
    };
    golden
        .iter()
        .filter_map(|(name, array)| Some((plain(name)?, array.clone())))
        .collect()
}

#[track_caller]
fn compare(case: &str, found: &BTreeMap<String, AnyTensor>, expected: &BTreeMap<String, Array>, tolerance: f64) {
    assert!(
        found.keys().eq(expected.keys()),
        "{case}: {:?} vs {:?}",
        found.keys(),
        expected.keys()
    );
    for (name, tensor) in found {
        let what = format!("{case} {name}");
        match tensor.clone() {
            AnyTensor::Vector(t) => {
                let (found, expected) = without_noise(&what, t.inner_or_self(), &expected[name]);
                close(&what, found, &expected, tolerance);
            }
            AnyTensor::Matrix(t) => close(&what, t.inner_or_self(), &expected[name], tolerance),
        }
    }
}

/// The middle third of GPT-2's fused bias belongs to the keys, where it has no effect and so no gradient but rounding.
fn without_noise(what: &str, found: Tensor<1>, expected: &Array) -> (Tensor<1>, Array) {
    if !what.ends_with("c_attn.bias") {
        return (found, expected.clone());
    }
    let third = expected.values.len() / 3;
    let found = Tensor::cat(
        vec![found.clone().slice(0..third), found.slice(2 * third..3 * third)],
        0,
    );
    let values = [&expected.values[..third], &expected.values[2 * third..]].concat();
    (
        found,
        Array {
            shape: vec![2 * third],
            values,
        },
    )
}

#[test]
fn logits_and_gradients_equal_peft() {
    let device = Device::flex().autodiff();
    for (case, base_name, _) in CASES {
        let golden = arrays(&dir(case).join("golden.safetensors"));
        let (mut model, _) = adapted(case, base_name, &device);
        compare(case, &trainable(&mut model), &golden_group(&golden, "param"), 0.0);
        // PEFT found the moved base of PiSSA by a decomposition in f32.
        let tolerance = if case == "lora_pissa" { 1e-4 } else { 1e-5 };
        close(case, logits(&model), &golden["logits"], tolerance);
        let (loss, grads) = peft_step(&model);
        close_loss(case, loss, golden["loss"].values[0], tolerance);
        let gradients = trainable(&mut in_gradients(&model, grads));
        compare(case, &gradients, &golden_group(&golden, "grad"), 1e-4);
    }
}

#[test]
fn three_adamw_steps_and_the_merge_equal_peft() {
    let device = Device::flex().autodiff();
    // PEFT's goldens were made with decay on everything, norms and biases too.
    for (case, base_name, comparable) in CASES.into_iter().filter(|(case, ..)| !case.contains("bias")) {
        let golden = arrays(&dir(case).join("golden.safetensors"));
        let (mut model, _) = adapted(case, base_name, &device);
        let mut optim = Optim::new(&OptimConfig::default()).unwrap();
        for expected in &golden["losses"].values {
            let (loss, grads) = peft_step(&model);
            close_loss(case, loss, *expected, 1e-4);
            model = optim.step(1e-2, model, grads);
        }
        if comparable {
            compare(case, &trainable(&mut model), &golden_group(&golden, "after"), 1e-4);
            close(case, logits(&model), &golden["after_logits"], 1e-4);
            let adapted = logits(&model);
            fold(&mut model).unwrap();
            assert!(trainable(&mut model).is_empty(), "{case}");
            close(case, logits(&model), &golden["merged_logits"], 1e-4);
            let diff = (logits(&model) - adapted).abs().max().into_scalar::<f32>();
            assert!(diff < 2e-5, "{case}: merging moved the logits by {diff:e}");
        }
    }
}

#[test]
fn a_saved_adapter_is_the_one_that_was_read() {
    for (case, base_name, _) in CASES.into_iter().filter(|(case, ..)| *case != "lora_pissa") {
        let (mut model, config) = adapted(case, base_name, &Device::flex());
        let out = tempfile::tempdir().unwrap();
        adapter::save(out.path(), &mut model, &config, "some/base").unwrap();
        let name = "adapter_model.safetensors";
        let (ours, theirs) = (arrays(&out.path().join(name)), arrays(&dir(case).join(name)));
        assert!(ours.keys().eq(theirs.keys()), "{case}");
        assert!(
            ours.iter().all(|(name, array)| array.values == theirs[name].values),
            "{case}"
        );
        let (mut again, golden) = (
            base(base_name, &Device::flex()),
            arrays(&dir(case).join("golden.safetensors")),
        );
        adapter::load(out.path(), &mut again).unwrap();
        close(case, logits(&again), &golden["logits"], 1e-5);
    }
}

#[test]
fn pissa_and_olora_start_as_the_base_and_save_over_it() {
    for (case, init) in [("lora_pissa", Init::Pissa), ("lora_olora", Init::Olora)] {
        let golden = arrays(&dir(case).join("golden.safetensors"));
        let mut model = base("peft/base", &Device::flex());
        let untouched = logits(&model);
        let config = LoraConfig {
            rank: 4,
            alpha: 8.0,
            init,
            ..LoraConfig::default()
        };
        attach(&mut model, &PeftConfig::Lora(config.clone()), 0).unwrap();
        close(case, logits(&model), &golden["init_logits"], 1e-5);
        for module in model.target_modules() {
            if let ModuleSlot::Projection(slot) = &module.slot
                && let Some(Delta::Lora(lora)) = &slot.delta
            {
                let delta = lora.b.val().matmul(lora.a.val()).mul_scalar(lora.scale);
                close(
                    &module.path,
                    delta,
                    &golden[&format!("delta.{}.weight", module.path)],
                    1e-5,
                );
                close(
                    &module.path,
                    slot.weight.dense(),
                    &golden[&format!("residual.{}.weight", module.path)],
                    1e-5,
                );
            }
        }
        let out = tempfile::tempdir().unwrap();
        adapter::save(out.path(), &mut model, &PeftConfig::Lora(config), "some/base").unwrap();
        let mut again = base("peft/base", &Device::flex());
        let (read, _) = adapter::load(out.path(), &mut again).unwrap();
        assert!(matches!(
            read,
            PeftConfig::Lora(LoraConfig {
                rank: 8,
                init: Init::Kaiming,
                ..
            })
        ));
        let diff = (logits(&again) - untouched).abs().max().into_scalar::<f32>();
        assert!(diff < 1e-5, "{case}: {diff:e}");
    }
}

#[test]
fn starting_values_depend_on_seed_and_path_and_leave_the_base_as_it_is() {
    let untouched = logits(&base("families/qwen2", &Device::flex()));
    let start = |config: &LoraConfig, seed: u64| {
        let mut model = base("families/qwen2", &Device::flex());
        attach(&mut model, &PeftConfig::Lora(config.clone()), seed).unwrap();
        let diff = (logits(&model) - untouched.clone()).abs().max().into_scalar::<f32>();
        assert_eq!(diff, 0.0);
        let first = trainable(&mut model)
            .into_iter()
            .find(|(name, _)| name.ends_with("q_proj.lora_A.weight"));
        first.unwrap().1.into_data().try_into_vec::<f32>().unwrap()
    };
    let all = LoraConfig::default();
    let few = LoraConfig {
        targets: ft_peft::Targets::Suffixes(vec!["q_proj".into()]),
        ..LoraConfig::default()
    };
    assert_eq!(start(&all, 1), start(&few, 1));
    assert_ne!(start(&all, 1), start(&all, 2));
    let bound = 1.0 / (32f32).sqrt();
    assert!(start(&all, 1).iter().all(|v| v.abs() <= bound));
}

#[test]
fn dropout_acts_in_training_alone_and_repeats_with_its_seed() {
    let mut model = base("peft/base", &Device::flex());
    let config = LoraConfig {
        dropout: 0.5,
        init: Init::Pissa,
        ..LoraConfig::default()
    };
    attach(&mut model, &PeftConfig::Lora(config), 0).unwrap();
    let hidden = |pass: Pass| {
        let ids = forward()["input_ids"].ids(&model.device());
        model
            .forward(ids, &Rows::Right, None, &pass)
            .into_data()
            .try_into_vec::<f32>()
            .unwrap()
    };
    assert_eq!(hidden(Pass::train(7)), hidden(Pass::train(7)));
    assert_ne!(hidden(Pass::train(7)), hidden(Pass::train(8)));
    assert_ne!(hidden(Pass::train(7)), hidden(Pass::eval()));
}

#[test]
fn a_tied_head_gets_its_own_weight_only_when_it_must() {
    use ft_peft::Targets::Suffixes;
    let attached = |config: LoraConfig| {
        let mut model = base("families/qwen2", &Device::flex());
        assert!(model.is_tied());
        let attached = attach(&mut model, &PeftConfig::Lora(config), 0).unwrap();
        (model, attached)
    };
    assert!(attached(LoraConfig::default()).0.is_tied());
    let whole = LoraConfig {
        modules_to_save: vec!["lm_head".into()],
        ..LoraConfig::default()
    };
    assert!(!attached(whole).0.is_tied());
    let (mut model, counted) = attached(LoraConfig {
        targets: Suffixes(vec!["embed_tokens".into()]),
        ..Default::default()
    });
    let trained: usize = trainable(&mut model)
        .values()
        .map(|t| t.dims().iter().product::<usize>())
        .sum();
    assert_eq!(counted.parameters, trained);
    assert!(model.is_tied());
    let before = logits(&model);
    fold(&mut model).unwrap();
    assert!(!model.is_tied());
    let diff = (logits(&model) - before).abs().max().into_scalar::<f32>();
    assert!(diff < 1e-5, "{diff:e}");
}

#[test]
fn a_preview_counts_what_attaching_makes_trainable() {
    use burn::module::Module;
    for base_name in ["families/llama", "families/qwen2", "families/qwen3", "families/gpt2"] {
        let configs = [
            PeftConfig::Lora(LoraConfig {
                lora_bias: true,
                ..LoraConfig::default()
            }),
            PeftConfig::Full(Default::default()),
        ];
        for config in configs {
            let mut model = base(base_name, &Device::flex());
            let expected = ft_peft::preview(&model.config().module_specs(), &config).unwrap();
            assert_eq!(attach(&mut model, &config, 0).unwrap(), expected, "{base_name}");
            assert_eq!(model.num_params(), expected.parameters, "{base_name}");
        }
    }
}
