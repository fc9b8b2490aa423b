//! Quantized bases against transformers with bitsandbytes: files byte for byte, logits, and LoRA over them (QLoRA).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_optim::{Optim, OptimConfig};
use ft_peft::{Adaptable, Delta, ModuleSlot, Pass, PeftConfig, adapter, fold};
use ft_quant::{Kind, Scheme};
use ft_train::MethodHook;
use safetensors::SafeTensors;

use crate::production::{close_loss, golden_batch, step};
use crate::support::{Array, arrays, close, fixture};

const CASES: [(&str, Scheme); 3] = [
    (
        "nf4",
        Scheme {
            kind: Kind::Nf4,
            double: false,
            block: 64,
        },
    ),
    (
        "nf4_dq",
        Scheme {
            kind: Kind::Nf4,
            double: true,
            block: 64,
        },
    ),
    (
        "fp4",
        Scheme {
            kind: Kind::Fp4,
            double: false,
            block: 64,
        },
    ),
];

fn dir(case: &str) -> PathBuf {
    fixture("bnb/hf").join(case)
}

fn golden(case: &str) -> BTreeMap<String, Array> {
    arrays(&dir(case).join("golden.safetensors"))
}

fn logits(model: &Model, golden: &BTreeMap<String, Array>) -> Tensor<3> {
    let ids = golden["input_ids"].ids(&model.device());
    let hidden = model.forward(ids, &Rows::Right, None, &Pass::eval());
    model.logits(hidden).without_autodiff()
}

/// How many projections a model holds in codes.
fn packed(model: &mut Model) -> usize {
    let in_codes = |module: &ft_peft::TargetModule<'_>| match &module.slot {
        ModuleSlot::Projection(slot) => slot.weight.as_packed().is_some(),
        _ => false,
    };
    model.target_modules().iter().filter(|module| in_codes(module)).count()
}

/// Name, type, shape and bytes of every tensor of a file.
fn tensors(path: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of = |view: safetensors::tensor::TensorView<'_>| {
        (
            format!("{:?}", view.dtype()),
            view.shape().to_vec(),
            view.data().to_vec(),
        )
    };
    file.iter().map(|(name, view)| (name.to_string(), of(view))).collect()
}

#[test]
fn quantized_checkpoints_of_transformers_compute_the_same() {
    for (case, _) in CASES {
        let golden = golden(case);
        let mut model = Model::load(&dir(case), LoadDtype::F32, &Device::flex()).unwrap();
        assert_eq!(packed(&mut model), 14, "{case}");
        close(case, logits(&model, &golden), &golden["logits"], 1e-5);
        for module in model.target_modules() {
            let ModuleSlot::Projection(slot) = &module.slot else {
                continue;
            };
            if slot.weight.as_packed().is_some() {
                let expected = &golden[&format!("dequant.{}.weight", module.path)];
                close(&module.path, slot.weight.dense(), expected, 0.0);
            }
        }
    }
}

#[test]
fn quantizing_on_load_gives_the_bytes_that_transformers_writes() {
    for (case, scheme) in CASES {
        let model = Model::load_quantized(&dir("base"), LoadDtype::F32, Some(scheme), &Device::flex()).unwrap();
        let out = tempfile::tempdir().unwrap();
        model.save(out.path(), LoadDtype::Auto).unwrap();
        let (mut ours, mut theirs) = (
            tensors(&out.path().join("model.safetensors")),
            tensors(&dir(case).join("model.safetensors")),
        );
        assert!(ours.keys().eq(theirs.keys()), "{case}");
        if scheme.double {
            // The codes of scales are looked up in a coarser table there; see the tests of ft-quant.
            let scales = |name: &String| {
                name.ends_with(".absmax") || name.contains("nested_absmax") || name.contains("quant_state")
            };
            ours.retain(|name, _| !scales(name));
            theirs.retain(|name, _| !scales(name));
        }
        for (name, tensor) in &ours {
            assert!(*tensor == theirs[name], "{case}: {name} differs");
        }
        let config = |dir: &Path| -> serde_json::Value {
            serde_json::from_str(&std::fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
        };
        let key = "quantization_config";
        assert_eq!(config(out.path())[key], config(&dir(case))[key], "{case}");

        let again = Model::load(out.path(), LoadDtype::F32, &Device::flex()).unwrap();
        let golden = golden(case);
        assert_eq!(
            logits(&again, &golden).to_data(),
            logits(&model, &golden).to_data(),
            "{case}"
        );
    }
}

#[test]
fn qlora_equals_peft() {
    let device = Device::flex().autodiff();
    for (case, _) in CASES {
        let golden = golden(case);
        let mut model = Model::load(&dir(case), LoadDtype::F32, &device).unwrap();
        adapter::load(&dir(case).join("qlora"), &mut model).unwrap();
        assert_eq!(packed(&mut model), 14, "{case}");
        close(case, logits(&model, &golden), &golden["qlora_logits"], 1e-5);
        let batch = golden_batch(&golden["input_ids"], &golden["labels"]);
        let mut hook = MethodHook::of(&PeftConfig::default());
        let (loss, grads) = step(&model, &mut hook, &batch);
        close_loss(case, loss, golden["qlora_loss"].values[0], 1e-5);
        let mut compared = 0;
        for module in model.target_modules() {
            let ModuleSlot::Projection(slot) = &module.slot else {
                continue;
            };
            let Some(Delta::Lora(lora)) = &slot.delta else { continue };
            for (name, param) in [("lora_A", &lora.a), ("lora_B", &lora.b)] {
                let key = format!("qlora_grad.base_model.model.{}.{name}.default.weight", module.path);
                close(&key, grads.get::<2>(param.id).unwrap(), &golden[&key], 1e-4);
                compared += 1;
            }
        }
        assert_eq!(compared, 28, "{case}");

        let mut optim = Optim::new(&OptimConfig::default()).unwrap();
        for expected in &golden["qlora_losses"].values {
            let (loss, grads) = step(&model, &mut hook, &batch);
            close_loss(case, loss, *expected, 1e-4);
            model = optim.step(1e-2, model, grads);
        }

        // Merging unpacks, adds in f32, and leaves a plain checkpoint.
        let adapted = logits(&model, &golden);
        fold(&mut model).unwrap();
        assert_eq!(packed(&mut model), 0, "{case}");
        let moved = (logits(&model, &golden) - adapted).abs().max().into_scalar::<f32>();
        assert!(moved < 2e-5, "{case}: merging moved the logits by {moved:e}");
        let out = tempfile::tempdir().unwrap();
        model.save(out.path(), LoadDtype::Bf16).unwrap();
        let plain = Model::load(out.path(), LoadDtype::Auto, &Device::flex()).unwrap();
        assert!(!plain.config().is_quantized(), "{case}");
    }
}

#[test]
fn every_kind_is_saved_and_loaded_over_every_layout() {
    for family in ["gpt2", "qwen2", "llama"] {
        let folder = fixture("families").join(family);
        let golden = arrays(&folder.join("golden.safetensors"));
        let plain = Model::load(&folder, LoadDtype::F32, &Device::flex()).unwrap();
        let plain = logits(&plain, &golden);
        for (kind, bound) in [(Kind::Int8, 0.05), (Kind::Nf4, 0.8), (Kind::Fp4, 1.2)] {
            let model =
                Model::load_quantized(&folder, LoadDtype::F32, Some(Scheme::new(kind)), &Device::flex()).unwrap();
            let quantized = logits(&model, &golden);
            let worst = (quantized.clone() - plain.clone()).abs().max().into_scalar::<f32>();
            let scale = plain.clone().abs().max().into_scalar::<f32>();
            assert!(
                worst > 0.0 && worst < bound * scale,
                "{family} {kind:?}: {worst} of {scale}"
            );

            let out = tempfile::tempdir().unwrap();
            model.save(out.path(), LoadDtype::Auto).unwrap();
            let again = Model::load(out.path(), LoadDtype::F32, &Device::flex()).unwrap();
            assert_eq!(
                logits(&again, &golden).to_data(),
                quantized.to_data(),
                "{family} {kind:?}"
            );

            model.save(out.path(), LoadDtype::F32).unwrap();
            let mut dense = Model::load(out.path(), LoadDtype::F32, &Device::flex()).unwrap();
            assert_eq!(packed(&mut dense), 0);
            let moved = (logits(&dense, &golden) - quantized).abs().max().into_scalar::<f32>();
            assert!(
                moved < 1e-4 * scale,
                "{family} {kind:?}: unpacking moved the logits by {moved:e}"
            );
        }
    }
}

#[test]
fn what_cannot_be_quantized_is_refused() {
    let load = |dir: &Path, scheme| {
        let error = Model::load_quantized(dir, LoadDtype::F32, Some(scheme), &Device::flex()).unwrap_err();
        error.to_string()
    };
    assert!(load(&dir("nf4"), Scheme::new(Kind::Fp4)).contains("quantized already, as nf4, blocks of 64"));
    let odd = Scheme {
        block: 48,
        ..Scheme::new(Kind::Nf4)
    };
    assert!(load(&dir("base"), odd).contains("block size 48"));
}
