//! What holds for every method that puts virtual tokens before the text.

use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_infer::{GenerationConfig, generate, no_stream};
use ft_model::{KvCache, LoadDtype, Model, Rows};
use ft_peft::{Adaptable, AnyTensor, Pass, PeftConfig, attach, fold};
use ft_quant::{Kind, Scheme};

use crate::prompts::{base, state};
use crate::support::fixture;

/// Options on each kind of block and window, for what holds for all of them.
const OPTIONS: [&str; 6] = [
    r#"{"method": "prompt_tuning", "num_virtual_tokens": 3, "prompt_tuning_init": "random"}"#,
    r#"{"method": "p_tuning", "num_virtual_tokens": 4}"#,
    r#"{"method": "p_tuning", "num_virtual_tokens": 2, "encoder_reparameterization_type": "lstm", "encoder_hidden_size": 8}"#,
    r#"{"method": "prefix_tuning", "num_virtual_tokens": 3}"#,
    r#"{"method": "prefix_tuning", "num_virtual_tokens": 5, "prefix_projection": true, "encoder_hidden_size": 12}"#,
    r#"{"method": "p_tuning_v2", "num_virtual_tokens": 4}"#,
];

const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen3", "gpt2"];

fn each(mut law: impl FnMut(&str, Model)) {
    for options in OPTIONS {
        for family in FAMILIES {
            let dir = fixture("families").join(family);
            let mut model = Model::load(&dir, LoadDtype::F32, &Device::flex()).unwrap();
            attach(&mut model, &serde_json::from_str(options).unwrap(), 5).unwrap();
            law(&format!("{options} on {family}"), model);
        }
    }
}

fn ids(rows: &[&[i32]]) -> Tensor<2, Int> {
    let flat: Vec<i32> = rows.concat();
    Tensor::from_data(TensorData::new(flat, [rows.len(), rows[0].len()]), &Device::flex())
}

fn largest(difference: Tensor<3>) -> f32 {
    difference.abs().max().into_scalar::<f32>()
}

#[test]
fn a_cache_changes_no_logit() {
    let sequence: Vec<i32> = (0..24).map(|i| 3 + (i * 29) % 93).collect();
    let second: Vec<i32> = (0..24).map(|i| 3 + (i * 41 + 7) % 93).collect();
    each(|what, model| {
        for rows in [Rows::Right, Rows::Left(vec![0, 4])] {
            let whole = model.forward(ids(&[&sequence, &second]), &rows, None, &Pass::eval());
            let whole = model.logits(whole);
            assert_eq!(whole.dims(), [2, 24, 96], "{what}");
            let mut cache = KvCache::new(model.config().num_hidden_layers);
            let mut start = 0;
            for columns in [7, 1, 1, 3, 1, 11] {
                let end = start + columns;
                let part = ids(&[&sequence[start..end], &second[start..end]]);
                let part = model.logits(model.forward(part, &rows, Some(&mut cache), &Pass::eval()));
                let from = if start == 0 { 4 } else { 0 };
                let expected = whole.clone().narrow(1, start + from, columns - from);
                let difference = largest(part.narrow(1, from, columns - from) - expected);
                assert!(
                    difference < 3e-5,
                    "{what}, {rows:?}, columns {start}..{end}: {difference}"
                );
                start = end;
            }
        }
    });
}

#[test]
fn padding_changes_no_logit() {
    let sequence: Vec<i32> = (0..20).map(|i| 3 + (i * 29) % 93).collect();
    each(|what, model| {
        let alone = model.forward(ids(&[&sequence[6..]]), &Rows::Right, None, &Pass::eval());
        let both = ids(&[&sequence, &[&[0; 6], &sequence[6..]].concat()]);
        let padded = model.forward(both, &Rows::Left(vec![0, 6]), None, &Pass::eval());
        let difference = largest(padded.narrow(0, 1, 1).narrow(1, 6, 14) - alone);
        assert!(difference < 3e-5, "{what}: {difference}");
    });
}

#[test]
fn a_batch_generates_what_each_prompt_does_alone() {
    let prompts: Vec<Vec<u32>> = vec![(3..12).collect(), vec![40, 41], vec![7, 60, 5, 33]];
    each(|what, model| {
        let tokens = |batch_size| {
            let config = GenerationConfig {
                batch_size,
                ..GenerationConfig::greedy(12, [])
            };
            let generations = generate(&model, &prompts, &config, &mut no_stream).unwrap();
            generations.into_iter().map(|g| g.tokens).collect::<Vec<_>>()
        };
        assert_eq!(tokens(3), tokens(1), "{what}");
    });
}

#[test]
fn every_storage_of_the_base_carries_them() {
    let sequence: Vec<i32> = (0..12).map(|i| 3 + (i * 29) % 93).collect();
    let scheme = |kind| Some(Scheme::new(kind));
    let storages = [
        (LoadDtype::F32, scheme(Kind::Nf4), 3e-5),
        (LoadDtype::F32, scheme(Kind::Int8), 3e-5),
        (LoadDtype::Bf16, None, 0.3),
        (LoadDtype::F16, None, 0.05),
    ];
    for (dtype, scheme, tolerance) in storages {
        for (options, family) in OPTIONS.iter().flat_map(|o| ["llama", "gpt2"].map(|f| (o, f))) {
            let what = format!("{options} on {family}, {dtype:?} {scheme:?}");
            let dir = fixture("families").join(family);
            let mut model = Model::load_quantized(&dir, dtype, scheme, &Device::flex()).unwrap();
            attach(&mut model, &serde_json::from_str(options).unwrap(), 5).unwrap();
            let forward = |columns: &[i32], cache: Option<&mut KvCache>| {
                model.logits(model.forward(ids(&[columns]), &Rows::Right, cache, &Pass::eval()))
            };
            let whole = forward(&sequence, None);
            let mut cache = KvCache::new(model.config().num_hidden_layers);
            forward(&sequence[..8], Some(&mut cache));
            let rest = forward(&sequence[8..], Some(&mut cache));
            let difference = largest(rest - whole.narrow(1, 8, 4));
            assert!(difference < tolerance, "{what}: {difference}");
        }
    }
}

#[test]
fn virtual_tokens_cannot_be_merged() {
    each(|what, mut model| {
        let input = ids(&[&[3, 4, 5]]);
        let hidden = |model: &Model| model.forward(input.clone(), &Rows::Right, None, &Pass::eval());
        let before = hidden(&model);
        let error = fold(&mut model).unwrap_err().to_string();
        let way_out = "so no weight can stand for it and it cannot be merged; keep base and adapter apart";
        assert!(error.contains(way_out), "{error}");
        assert_eq!(largest(hidden(&model) - before), 0.0, "{what}");
        let out = tempfile::tempdir().unwrap();
        assert!(
            matches!(
                model.save(out.path(), LoadDtype::F32),
                Err(ft_model::Error::NotFolded(_))
            ),
            "{what}"
        );
    });
}

#[test]
fn virtual_tokens_take_positions() {
    let dir = fixture("families/gpt2"); // 64 learned positions
    let mut model = Model::load(&dir, LoadDtype::F32, &Device::flex()).unwrap();
    let config: PeftConfig = serde_json::from_str(OPTIONS[0]).unwrap();
    attach(&mut model, &config, 5).unwrap();
    assert_eq!(model.positions(), 61);
    let long: Vec<u32> = (0..60).map(|i| 3 + i % 90).collect();
    let generated = generate(
        &model,
        std::slice::from_ref(&long),
        &GenerationConfig::greedy(16, []),
        &mut no_stream,
    )
    .unwrap();
    assert_eq!(generated[0].tokens.len(), 1);
    let error = generate(
        &model,
        &[[long, vec![5]].concat()],
        &GenerationConfig::greedy(16, []),
        &mut no_stream,
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the model has 61 positions"), "{error}");
}

#[test]
fn padding_at_the_end_may_reach_beyond_the_positions() {
    let dir = fixture("families/gpt2"); // 64 learned positions
    let mut model = Model::load(&dir, LoadDtype::F32, &Device::flex()).unwrap();
    attach(&mut model, &serde_json::from_str(OPTIONS[0]).unwrap(), 5).unwrap();
    let row: Vec<i32> = (0..61).map(|i| 3 + i % 90).chain([0; 3]).collect();
    let hidden = |row: &[i32]| model.forward(ids(&[row]), &Rows::Right, None, &Pass::eval());
    let difference = largest(hidden(&row).narrow(1, 0, 61) - hidden(&row[..61]));
    assert!(difference < 3e-5, "{difference}");
}

#[test]
fn dropout_of_the_lstm_acts_in_training_alone() {
    let options = r#"{"method": "p_tuning", "encoder_reparameterization_type": "lstm", "encoder_dropout": 0.5}"#;
    let mut model = base("prompt", &Device::flex());
    attach(&mut model, &serde_json::from_str(options).unwrap(), 5).unwrap();
    let input = ids(&[&[3, 4, 5]]);
    let hidden = |pass: Pass| model.forward(input.clone(), &Rows::Right, None, &pass);
    assert_eq!(largest(hidden(Pass::train(7)) - hidden(Pass::train(7))), 0.0);
    assert!(largest(hidden(Pass::train(8)) - hidden(Pass::train(7))) > 1e-3);
    assert!(largest(hidden(Pass::eval()) - hidden(Pass::train(7))) > 1e-3);
    assert_eq!(largest(hidden(Pass::eval()) - hidden(Pass::eval())), 0.0);
}

#[test]
fn a_text_or_the_vocabulary_starts_a_prompt() {
    let embeddings = |config: PeftConfig| {
        let mut model = base("prompt", &Device::flex());
        attach(&mut model, &config, 5).unwrap();
        let AnyTensor::Matrix(rows) = state(&model)["embedding.weight"].clone() else {
            panic!()
        };
        (rows, model)
    };
    let options = r#"{"method": "prompt_tuning", "num_virtual_tokens": 5, "prompt_tuning_init": "text",
        "prompt_tuning_init_text": "three words here"}"#;
    let config: PeftConfig = serde_json::from_str(options).unwrap();
    assert_eq!(config.init_text().unwrap().1, "three words here");
    let (rows, model) = embeddings(config.clone().with_init_ids(vec![7, 9, 11]));
    let table = table(&model);
    let expected = table
        .clone()
        .select(0, Tensor::from_ints([7, 9, 11, 7, 9], &Device::flex()));
    assert_eq!((rows - expected).abs().max().into_scalar::<f32>(), 0.0);

    let mut model = base("prompt", &Device::flex());
    let error = |ids: Vec<u32>, model: &mut Model| {
        let config = config.clone().with_init_ids(ids);
        attach(model, &config, 5).unwrap_err().to_string()
    };
    let found = error(vec![], &mut model);
    assert!(found.contains("peft.prompt_tuning_init_text: has no token"), "{found}");
    let found = error(vec![3, 64], &mut model);
    assert!(
        found.contains("holds token id 64, but the model knows 64 ids"),
        "{found}"
    );

    let sampled = r#"{"method": "prompt_tuning", "num_virtual_tokens": 5, "prompt_tuning_init": "sample_vocab"}"#;
    let (rows, _) = embeddings(serde_json::from_str(sampled).unwrap());
    // Every row is one of the table's.
    let apart = rows.unsqueeze_dim::<3>(1) - table.unsqueeze_dim::<3>(0); // [5, 64, hidden]
    let nearest = apart.abs().sum_dim(2).min_dim(1);
    assert_eq!(nearest.max().into_scalar::<f32>(), 0.0);
}

fn table(model: &Model) -> Tensor<2> {
    let mut model = model.clone();
    let mut modules = model.target_modules();
    match modules[0].tensors().remove(0) {
        (_, AnyTensor::Matrix(table)) => table,
        other => panic!("{other:?}"),
    }
}
