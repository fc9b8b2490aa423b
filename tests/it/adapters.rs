//! Several adapters of one base: combined, switched, and one per row.

use burn::tensor::{Device, Tensor};
use ft_infer::{GenerationConfig, MixedRows, generate, generate_mixed, no_stream};
use ft_model::{LoadDtype, Model, Rows};
use ft_peft::plain::{Combination, MajoritySign, Method, PlainLora, combine};
use ft_peft::{Adapters, Pass, adapter};

use crate::support::{Array, arrays, close, fixture};

fn base() -> Model {
    Model::load(&fixture("peft/base"), LoadDtype::F32, &Device::flex()).unwrap()
}

fn logits(model: &Model) -> Tensor<3> {
    let ids = arrays(&fixture("peft/base_forward.safetensors"))["input_ids"].ids(&model.device());
    model.logits(model.forward(ids, &Rows::Right, None, &Pass::eval()))
}

fn golden(case: &str) -> Array {
    arrays(&fixture("peft").join(case).join("golden.safetensors"))["logits"].clone()
}

#[test]
fn combinations_compute_what_peft_computes() {
    let device = Device::flex();
    let read = |case: &str| PlainLora::read(&fixture("peft").join(case), &device).unwrap();
    let (one, two) = (read("lora_qv"), read("lora_all_rslora"));
    let cases = arrays(&fixture("combine/golden.safetensors"));
    assert_eq!(cases.len(), 13);
    for (case, expected) in cases {
        let (kind, more) = case.split_once('/').unwrap_or((&case, ""));
        let method = match kind.strip_suffix("_svd").unwrap_or(kind) {
            "linear" | "svd" => Method::Linear,
            "cat" => Method::Cat,
            "ties" => Method::Ties,
            "magnitude_prune" => Method::MagnitudePrune,
            other => panic!("{other}"),
        };
        let how = Combination {
            method,
            svd: kind.ends_with("svd"),
            rank: (more == "rank2").then_some(2),
            density: 0.4,
            majority_sign: if more == "frequency" {
                MajoritySign::Frequency
            } else {
                MajoritySign::Total
            },
            seed: 0,
        };
        let weight = if more == "negative" { -0.4 } else { 0.3 };
        let combined = combine(&[(one.clone(), 0.7), (two.clone(), weight)], &how).unwrap();
        let dir = tempfile::tempdir().unwrap();
        combined.write(dir.path()).unwrap();
        let mut model = base();
        adapter::load(dir.path(), &mut model).unwrap();
        close(&case, logits(&model), &expected, 1e-5);
    }
}

#[test]
fn adapters_are_switched_without_reading_the_base_again() {
    let mut model = base();
    let plain = arrays(&fixture("peft/base_forward.safetensors"))["logits"].clone();
    let mut adapters = Adapters::new(&mut model);
    let cases = [
        "lora_qv",
        "dora",
        "lora_embed",
        "lora_mts_head",
        "ia3",
        "prefix",
        "ln_tuning",
    ];
    for case in cases {
        adapters.load(&mut model, case, &fixture("peft").join(case)).unwrap();
        assert_eq!(adapters.active(), Some("lora_qv"));
        close("the first stays", logits(&model), &golden("lora_qv"), 1e-5);
    }
    for case in cases.into_iter().rev() {
        adapters.activate(&mut model, Some(case)).unwrap();
        close(case, logits(&model), &golden(case), 1e-5);
        adapters.activate(&mut model, None).unwrap();
        close("the base", logits(&model), &plain, 1e-5);
    }
    adapters.activate(&mut model, Some("dora")).unwrap();
    adapters.remove(&mut model, "dora").unwrap();
    assert_eq!(adapters.active(), None);
    close("the base", logits(&model), &plain, 1e-5);
    adapters.load(&mut model, "dora", &fixture("peft/dora")).unwrap();
    adapters.activate(&mut model, Some("dora")).unwrap();
    close("dora again", logits(&model), &golden("dora"), 1e-5);
}

#[test]
fn wrong_names_and_wrong_bases_leave_the_set_as_it_was() {
    let mut model = base();
    let mut adapters = Adapters::new(&mut model);
    adapters.load(&mut model, "a", &fixture("peft/lora_qv")).unwrap();
    let taken = adapters.load(&mut model, "a", &fixture("peft/dora")).unwrap_err();
    assert!(
        taken.to_string().contains("\"a\" is the name of another adapter"),
        "{taken}"
    );
    let unknown = adapters.activate(&mut model, Some("b")).unwrap_err();
    assert!(
        unknown.to_string().contains("no adapter \"b\"; there are a"),
        "{unknown}"
    );
    let other = adapters
        .load(&mut model, "b", &fixture("peft/lora_all_linear"))
        .unwrap_err();
    assert!(other.to_string().contains("the model needs"), "{other}");
    assert_eq!(adapters.names().collect::<Vec<_>>(), ["a"]);
    close("still a", logits(&model), &golden("lora_qv"), 1e-5);
    adapters.load(&mut model, "d", &fixture("peft/dora")).unwrap();
    let dora = adapters.mix(&mut model, &["a", "d"]).unwrap_err();
    assert!(dora.to_string().contains("\"d\" has more than LoRA matrices"), "{dora}");
}

#[test]
fn every_row_of_a_batch_gets_what_it_gets_alone() {
    let mut model = base();
    let mut adapters = Adapters::new(&mut model);
    let names = ["lora_qv", "lora_all_rslora"];
    for name in names {
        adapters.load(&mut model, name, &fixture("peft").join(name)).unwrap();
    }
    let prompts: Vec<Vec<u32>> = vec![
        vec![1, 5, 9],
        vec![1, 5, 9],
        vec![1, 5, 9],
        vec![7, 2, 40, 11, 3],
        vec![8],
        vec![33, 2],
    ];
    let choice = [None, Some(0), Some(1), Some(0), Some(1), None];
    // Rows end at different lengths: token 17 stops some of them.
    for beams in [1, 2] {
        let config = GenerationConfig {
            batch_size: 4,
            num_beams: beams,
            ..GenerationConfig::greedy(12, [17, 3, 50])
        };
        let mut alone = Vec::new();
        for (prompt, choice) in prompts.iter().zip(choice) {
            adapters.activate(&mut model, choice.map(|i| names[i])).unwrap();
            let answer = generate(&model, std::slice::from_ref(prompt), &config, &mut no_stream).unwrap();
            alone.push(answer[0].tokens.clone());
        }
        assert!(
            alone[0] != alone[1] || alone[1] != alone[2],
            "the adapters say something of their own"
        );
        let rows = adapters.mix(&mut model, &names).unwrap();
        let mixed = MixedRows {
            rows: &rows,
            adapters: &choice,
        };
        let together = generate_mixed(&model, &prompts, mixed, &config, &mut no_stream).unwrap();
        let together: Vec<_> = together.into_iter().map(|answer| answer.tokens).collect();
        assert_eq!(together, alone);
    }
    let refused = ft_peft::fold(&mut model).unwrap_err();
    assert!(refused.to_string().contains("each row"), "{refused}");
}
