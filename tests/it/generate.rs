//! Generation against transformers, and the laws it obeys: a cache changes nothing, neighbours change nothing.

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_infer::{EarlyStopping, Error, FinishReason, GenerationConfig, PromptProblem, Texts, generate, no_stream};
use ft_model::{KvCache, LoadDtype, Model, Rows};
use ft_peft::{Pass, adapter, attach, fold};
use serde_json::Value;

use crate::families::FAMILIES;
use crate::methods_held::each;
use crate::methods_laws::disturb;
use crate::support::{Array, arrays, fixture, word_tokenizer};

fn load(family: &str) -> Model {
    Model::load(&fixture("families").join(family), LoadDtype::F32, &Device::flex()).unwrap()
}

fn golden(family: &str) -> std::collections::BTreeMap<String, Array> {
    arrays(&fixture("families").join(family).join("golden.safetensors"))
}

/// The rows of an array of ids, without the columns that `mask` hides.
fn rows(ids: &Array, mask: Option<&Array>) -> Vec<Vec<u32>> {
    let width = ids.shape[1];
    let row = |r: usize| {
        let columns = (r * width..(r + 1) * width).filter(|&i| mask.is_none_or(|mask| mask.values[i] > 0.0));
        columns.map(|i| ids.values[i] as u32).collect()
    };
    (0..ids.shape[0]).map(row).collect()
}

fn prompts(family: &str) -> Vec<Vec<u32>> {
    let golden = golden(family);
    rows(&golden["prompt_ids"], Some(&golden["prompt_attention_mask"]))
}

fn tokens(model: &Model, prompts: &[Vec<u32>], config: &GenerationConfig) -> Vec<Vec<u32>> {
    let generations = generate(model, prompts, config, &mut no_stream).unwrap();
    generations.into_iter().map(|generation| generation.tokens).collect()
}

#[test]
fn greedy_equals_transformers() {
    for family in FAMILIES.into_iter().chain(["qwen2_bf16"]) {
        let (model, prompts) = (load(family), prompts(family));
        let expected = rows(&golden(family)["generated_ids"], None);
        assert_eq!(prompts.iter().map(Vec::len).collect::<Vec<_>>(), [3, 9, 6]);
        for batch_size in [3, 2, 1] {
            let config = GenerationConfig {
                batch_size,
                ..GenerationConfig::greedy(16, [])
            };
            assert_eq!(
                tokens(&model, &prompts, &config),
                expected,
                "{family}, batches of {batch_size}"
            );
        }
    }
}

#[test]
fn penalties_and_beam_search_equal_transformers() {
    let text = std::fs::read_to_string(fixture("generate/golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let cases = golden["searches"].as_array().unwrap();
    assert_eq!(cases.len(), 192);
    for family in ["llama", "mistral", "qwen3", "gpt2"] {
        let model = load(family);
        for case in cases.iter().filter(|case| case["family"] == family) {
            let lists = |key: &str| -> Vec<Vec<u32>> { serde_json::from_value(case[key].clone()).unwrap() };
            assert_eq!(
                tokens(&model, &lists("prompts"), &settings(case)),
                lists("answers"),
                "{case}"
            );
        }
    }
}

/// The settings of a golden case, in transformers' spelling.
fn settings(case: &Value) -> GenerationConfig {
    let number = |key: &str, default: f64| case["settings"][key].as_f64().unwrap_or(default);
    GenerationConfig {
        repetition_penalty: number("repetition_penalty", 1.0),
        no_repeat_ngram_size: number("no_repeat_ngram_size", 0.0) as usize,
        num_beams: number("num_beams", 1.0) as usize,
        length_penalty: number("length_penalty", 1.0),
        early_stopping: match &case["settings"]["early_stopping"] {
            Value::Bool(true) => EarlyStopping::Always,
            Value::String(_) => EarlyStopping::Never,
            _ => EarlyStopping::Heuristic,
        },
        ..GenerationConfig::greedy(
            case["max_new_tokens"].as_u64().unwrap() as usize,
            serde_json::from_value::<Vec<u32>>(case["eos_token_id"].clone()).unwrap(),
        )
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
    for family in FAMILIES {
        let model = load(family);
        for rows in [Rows::Right, Rows::Left(vec![0, 4])] {
            let whole = model.forward(ids(&[&sequence, &second]), &rows, None, &Pass::eval());
            let whole = model.logits(whole);
            let mut cache = KvCache::new(model.config().num_hidden_layers);
            let mut start = 0;
            for columns in [7, 1, 1, 3, 1, 11] {
                let end = start + columns;
                let part = ids(&[&sequence[start..end], &second[start..end]]);
                let part = model.forward(part, &rows, Some(&mut cache), &Pass::eval());
                let part = model.logits(part);
                // The padding of the second row (columns 0 to 3) promises nothing.
                let from = if start == 0 { 4 } else { 0 };
                let expected = whole.clone().narrow(1, start + from, columns - from);
                let difference = largest(part.narrow(1, from, columns - from) - expected);
                // Logits reach 20; products of other shapes round differently.
                assert!(
                    difference < 3e-5,
                    "{family}, {rows:?}, columns {start}..{end}: {difference}"
                );
                start = end;
            }
            assert_eq!((start, cache.len()), (24, 24));
        }
    }
}

#[test]
fn sampling_does_not_depend_on_neighbours() {
    for family in ["llama", "mistral", "gpt2"] {
        let (model, prompts) = (load(family), prompts(family));
        let config = GenerationConfig {
            do_sample: true,
            top_k: 0,
            seed: 5,
            ..GenerationConfig::greedy(20, [4, 9, 30])
        };
        let together = tokens(&model, &prompts, &config);
        let alone = tokens(
            &model,
            &prompts,
            &GenerationConfig {
                batch_size: 1,
                ..config.clone()
            },
        );
        assert_eq!(together, alone, "{family}");
        assert_eq!(together[..2], tokens(&model, &prompts[..2], &config), "{family}");
        assert_ne!(
            together,
            tokens(&model, &prompts, &GenerationConfig { seed: 6, ..config }),
            "{family}"
        );
    }
}

#[test]
fn the_folder_tells_where_to_stop() {
    let dir = fixture("families").join("llama3_rope");
    let model = load("llama3_rope");
    let config = GenerationConfig::from_dir(&dir, &model.config().eos_token_ids).unwrap();
    assert_eq!(config.eos_token_id, [2, 7]);

    let free = tokens(&model, &prompts("llama3_rope"), &GenerationConfig::greedy(16, []));
    let stop = free[1][5];
    let mut streamed = Vec::new();
    let config = GenerationConfig::greedy(16, [stop]);
    let generations = generate(&model, &prompts("llama3_rope"), &config, &mut |token| {
        streamed.push((token.row, token.id));
        ControlFlow::Continue(())
    })
    .unwrap();
    for (generation, free) in generations.iter().zip(&free) {
        let end = free.iter().position(|&id| id == stop);
        assert_eq!(generation.tokens, free[..end.map_or(16, |end| end + 1)]);
        assert_eq!(
            generation.finish_reason,
            end.map_or(FinishReason::Length, |_| FinishReason::Stop)
        );
    }
    assert!(
        generations
            .iter()
            .any(|generation| generation.finish_reason == FinishReason::Stop)
    );
    assert_eq!(
        streamed.len(),
        generations
            .iter()
            .map(|generation| generation.tokens.len())
            .sum::<usize>()
    );
}

#[test]
fn streamed_text_is_the_text() {
    let (model, tokenizer, prompts) = (load("llama"), word_tokenizer(), prompts("llama"));
    // The sixth token of the second answer, as a stop token, is no text.
    let stop = tokens(&model, &prompts, &GenerationConfig::greedy(16, []))[1][5];
    let config = GenerationConfig {
        batch_size: 2,
        ..GenerationConfig::greedy(16, [stop])
    };
    let mut texts = Texts::new(&tokenizer, prompts.len());
    let mut shown = vec![String::new(); prompts.len()];
    let generations = generate(&model, &prompts, &config, &mut |token| {
        shown[token.row] += &texts.push(token);
        ControlFlow::Continue(())
    })
    .unwrap();
    for (shown, generation) in shown.iter().zip(&generations) {
        assert_eq!(*shown, tokenizer.decode(generation.content(), true));
    }
    assert!(
        !shown[1].is_empty() && !shown[1].contains(&format!("w{stop}")),
        "{shown:?}"
    );
}

#[test]
fn positions_end_a_row_and_bad_prompts_are_named() {
    let model = load("gpt2"); // 64 learned positions
    let long: Vec<u32> = (0..60).map(|i| 3 + i % 90).collect();
    let generations = generate(&model, &[long], &GenerationConfig::greedy(16, []), &mut no_stream).unwrap();
    assert_eq!(
        (generations[0].tokens.len(), generations[0].finish_reason),
        (4, FinishReason::Length)
    );

    let bad = [vec![3], vec![], vec![5; 64], vec![1, 96]];
    let error = generate(&model, &bad, &GenerationConfig::greedy(4, []), &mut no_stream).unwrap_err();
    let Error::Prompts(problems) = &error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 3);
    assert_eq!(
        problems[2],
        PromptProblem::OutOfVocabulary {
            row: 3,
            index: 1,
            id: 96,
            vocab: 96
        }
    );
    assert!(
        error
            .to_string()
            .contains("prompt 2 has 64 tokens, and the model has 64 positions"),
        "{error}"
    );
}

#[test]
fn an_adapter_generates_what_the_merged_model_does() {
    for (case, family) in [("lora_all_linear", "qwen3"), ("lora_gpt2", "gpt2")] {
        let prompts = prompts(family);
        let config = GenerationConfig::greedy(16, []);
        let plain = tokens(&load(family), &prompts, &config);
        // As a model in training has it: loaded on an autodiff device, evaluated through `valid`.
        let (device, dir) = (Device::flex().autodiff(), fixture("families").join(family));
        let mut model = Model::load(&dir, LoadDtype::F32, &device).unwrap();
        adapter::load(&fixture("peft").join(case), &mut model).unwrap();
        let adapted = tokens(&model.valid(), &prompts, &config);
        assert_ne!(adapted, plain, "{case}: the adapter has something to say");
        fold(&mut model).unwrap();
        assert_eq!(tokens(&model.valid(), &prompts, &config), adapted, "{case}");
    }
}

#[test]
fn sixteen_bit_weights_generate() {
    for (family, dtype) in [
        ("qwen2_bf16", LoadDtype::Auto),
        ("llama", LoadDtype::F16),
        ("gpt2", LoadDtype::Bf16),
    ] {
        let model = Model::load(&fixture("families").join(family), dtype, &Device::flex()).unwrap();
        let prompts = prompts(family);
        let found = tokens(&model, &prompts, &GenerationConfig::greedy(16, []));
        // Rounding to 16 bits changes close choices, so only the first one, which leads clearly, is compared.
        let expected = tokens(&load(family), &prompts, &GenerationConfig::greedy(1, []));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!((found.len(), found[0]), (16, expected[0]), "{family}");
        }
    }
}

#[test]
fn every_method_on_every_storage_says_what_whole_passes_say() {
    let prompts: Vec<Vec<u32>> = vec![vec![3, 40, 7], (3..15).collect(), vec![9]];
    each(|what, held, _, config| {
        let mut model = held.load(&Device::flex());
        attach(&mut model, config, 5).unwrap();
        disturb(&mut model);
        let greedy = GenerationConfig {
            batch_size: 2,
            ..GenerationConfig::greedy(5, [])
        };
        for (prompt, answer) in prompts.iter().zip(tokens(&model, &prompts, &greedy)) {
            let text: Vec<i32> = prompt.iter().chain(&answer).map(|id| *id as i32).collect();
            let whole = model.forward(ids(&[&text]), &Rows::Right, None, &Pass::eval());
            let logits = model
                .logits(whole)
                .into_data()
                .convert::<f32>()
                .try_into_vec::<f32>()
                .unwrap();
            let vocab = logits.len() / text.len();
            let rows = logits.chunks(vocab).skip(prompt.len() - 1);
            for (row, id) in rows.zip(&answer) {
                let [most, least] = [f32::max, f32::min].map(|end| row.iter().copied().fold(row[0], end));
                // Two that are as good as equal may change places.
                let behind = (most - row[*id as usize]) / (most - least);
                assert!(
                    behind < 1e-4,
                    "{what}, {prompt:?} {answer:?}: {id} lies {behind} behind"
                );
            }
        }
    });
}
