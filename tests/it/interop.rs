//! Adapters for other programs: what is exported computes what the adapter computes.

use burn::tensor::{Device, Tensor};
use ft_model::{LoadDtype, Model, Rows};
use ft_peft::methods::lora::LoraConfig;
use ft_peft::plain::PlainLora;
use ft_peft::{Pass, PeftConfig, adapter};

use crate::support::{arrays, close, fixture};

fn logits(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()))
}

#[test]
fn a_folded_adapter_is_the_adapter_at_one_rank_and_scale_one() {
    let device = Device::flex();
    let cases = [
        ("lora_all_rslora", "peft/base", 4),
        ("lora_alpha_pattern", "peft/base", 4),
        ("lora_rank_pattern", "peft/base", 8),
        ("lora_embed", "peft/base", 4),
        ("lora_layers", "peft/base", 4),
        ("lora_regex", "peft/base", 4),
        ("lora_gpt2", "families/gpt2", 4),
        ("adalora", "peft/base", 6),
    ];
    for (case, base, rank) in cases {
        let dir = tempfile::tempdir().unwrap();
        let folder = fixture("peft").join(case);
        PlainLora::read(&folder, &device).unwrap().write(dir.path()).unwrap();
        let mut model = Model::load(&fixture(base), LoadDtype::F32, &device).unwrap();
        let (config, _) = adapter::load(dir.path(), &mut model).unwrap();
        let PeftConfig::Lora(LoraConfig {
            rank: r,
            alpha,
            rslora,
            rank_pattern,
            alpha_pattern,
            ..
        }) = config
        else {
            panic!("{case}: {config:?}")
        };
        assert_eq!((r, alpha, rslora), (rank, rank as f64, false), "{case}");
        assert!(rank_pattern.is_empty() && alpha_pattern.is_empty(), "{case}");
        close(
            case,
            logits(&model),
            &arrays(&folder.join("golden.safetensors"))["logits"],
            1e-5,
        );
    }
}

#[test]
fn adalora_without_the_triplets_it_took_away_is_lora() {
    let (device, dir) = (Device::flex(), tempfile::tempdir().unwrap());
    let spent = fixture("peft/adalora/after");
    let lora = PlainLora::read(&spent, &device).unwrap();
    assert!(lora.rank() < 6);
    lora.write(dir.path()).unwrap();
    let mut model = Model::load(&fixture("peft/base"), LoadDtype::F32, &device).unwrap();
    adapter::load(dir.path(), &mut model).unwrap();
    let golden = arrays(&fixture("peft/adalora/golden.safetensors"));
    close("after", logits(&model), &golden["after_logits"], 1e-4);
}

#[test]
fn what_is_more_than_lora_says_what_it_has() {
    let message = |case: &str| {
        let read = PlainLora::read(&fixture("peft").join(case), &Device::flex());
        read.unwrap_err().to_string()
    };
    assert!(message("dora").contains("DoRA"));
    assert!(message("ia3").contains("\"ia3\", not LoRA"));
    assert!(message("lora_mts_head").contains("lm_head"));
    assert!(message("lora_bias_all").contains("bias"));
    assert!(message("lora_pissa").contains("init_lora_weights"));
}
