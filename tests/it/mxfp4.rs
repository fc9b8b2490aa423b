//! Experts of gpt-oss in MXFP4.

use std::fs;

use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, ModelConfig, Rows};
use ft_peft::{Adaptable, ModuleSlot, Pass, TargetModule};
use ft_quant::{Kind, Scheme};

use crate::support::{Array, arrays, close, fixture};

fn logits(model: &Model, ids: &Array) -> Tensor<3> {
    let hidden = model.forward(ids.ids(&model.device()), &Rows::Right, None, &Pass::eval());
    model.logits(hidden)
}

/// Blocks of four bits, unpacked as transformers does, planned and merged as what they are then.
#[test]
fn experts_in_mxfp4_are_unpacked() {
    let folder = fixture("families/gpt_oss_mxfp4");
    let golden = arrays(&folder.join("golden.safetensors"));
    let checkpoint = ft_model::Checkpoint::open(&folder).unwrap();
    assert!(checkpoint.has_mxfp4() && checkpoint.is_mxfp4("model.layers.1.mlp.experts.2.down_proj.weight"));
    assert!(!checkpoint.is_mxfp4("model.layers.1.self_attn.q_proj.weight"));
    assert!(!ModelConfig::from_dir(&folder).unwrap().is_quantized());
    let load = |dtype, scheme| Model::load_quantized(&folder, dtype, scheme, &Device::flex()).unwrap();
    let model = load(LoadDtype::F32, None);
    close("f32", logits(&model, &golden["input_ids"]), &golden["logits"], 2e-5);
    // Every number of four bits is one of bf16, too.
    close(
        "as stored",
        logits(
            &load(LoadDtype::Auto, None).computing_in(burn::tensor::FloatDType::F32),
            &golden["input_ids"],
        ),
        &golden["logits"],
        2e-5,
    );
    let out = tempfile::tempdir().unwrap();
    model.save(out.path(), LoadDtype::Bf16).unwrap();
    let written = ft_model::Checkpoint::open(out.path()).unwrap();
    assert!(!written.has_mxfp4());
    let text = fs::read_to_string(out.path().join("config.json")).unwrap();
    assert!(
        !text.contains("quantization_config") && text.contains("\"bfloat16\""),
        "{text}"
    );
    let again = Model::load(out.path(), LoadDtype::F32, &Device::flex()).unwrap();
    let dense = |module: TargetModule<'_>| match module.slot {
        ModuleSlot::Projection(slot) if module.path.contains(".experts.") => Some(slot.weight.dense().into_data()),
        _ => None,
    };
    let plain = |model: &Model| {
        let mut model = model.clone();
        model.target_modules().into_iter().filter_map(dense).collect::<Vec<_>>()
    };
    assert_eq!(plain(&model).len(), 2 * 3 * 2);
    assert_eq!(plain(&again), plain(&model));
    // In other codes, they are what the unpacked checkpoint is in them.
    for kind in [Kind::Nf4, Kind::Int8] {
        let scheme = Some(Scheme::new(kind));
        let unpacked = Model::load_quantized(out.path(), LoadDtype::F32, scheme, &Device::flex()).unwrap();
        assert_eq!(plain(&load(LoadDtype::F32, scheme)), plain(&unpacked), "{kind:?}");
    }
}

#[test]
fn wrong_blocks_of_mxfp4_are_named() {
    let source = fixture("families/gpt_oss_mxfp4");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "model.layers.0.mlp.experts.down_proj_scales";
    let scales = file.tensor(name).unwrap();
    let mut all: Vec<u8> = scales.data().to_vec();
    all[5] = 255;
    let short: Vec<u8> = all[..all.len() / 2].to_vec();
    let shape = [scales.shape()[0], scales.shape()[1] / 2, scales.shape()[2]];
    for (data, shape, wrong) in [
        (all, scales.shape().to_vec(), "scale 5 is 255"),
        (short, shape.to_vec(), "down_proj.scales: bytes [32, 1] expected"),
    ] {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, shape, &data).unwrap();
        let tensors = file
            .iter()
            .map(|(own, other)| if own == name { (own, view.clone()) } else { (own, other) });
        safetensors::serialize_to_file(tensors, None, &dir.path().join("model.safetensors")).unwrap();
        let error = Model::load(dir.path(), LoadDtype::F32, &Device::flex())
            .unwrap_err()
            .to_string();
        assert!(error.contains(wrong), "{error}");
    }
}
