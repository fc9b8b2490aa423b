//! A model whose layers have states in the place of keys and values.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use ft_model::{ModelConfig, Rows};
use ft_peft::methods::prompt_tuning::PromptTuningConfig;
use ft_peft::{Pass, PeftConfig, adapter, attach};

use super::*;

fn recurrent() -> Model {
    let config = r#"{"model_type": "qwen3_5_text", "vocab_size": 1024, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": true, "initializer_range": 0.3,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12}"#;
    let config = ModelConfig::from_json(config, "config.json".as_ref()).unwrap();
    Model::init(&config, 3, &Device::flex())
}

fn start(edit: impl FnOnce(&mut EngineOptions)) -> Engine {
    let mut options = EngineOptions::default();
    edit(&mut options);
    Engine::start(recurrent(), options).unwrap()
}

fn text(i: u32, len: u32) -> Vec<u32> {
    (0..len).map(|j| 3 + (i * 37 + j * 13) % 1000).collect()
}

#[test]
fn a_state_is_the_same_bits_alone_among_others_and_after_a_preemption() {
    let ask = |engine: &Engine, i| engine.submit(scored(&text(i, 120), 60)).unwrap();
    let wide = start(|_| {});
    let alone = [0, 1, 2].map(|i| collect(ask(&wide, i)));
    let narrow = start(|options| {
        options.cache_positions = 384;
        options.prompt_tokens = 50;
    });
    let together = [0, 1, 2].map(|i| ask(&narrow, i)).map(collect);
    assert_eq!(together, alone);
    assert!(narrow.stats().preempted > 0, "{:?}", narrow.stats());
    let expected = generate(&recurrent(), &[text(1, 120)], &greedy(60), &mut no_stream).unwrap();
    assert_eq!(alone[1].0, expected[0].tokens);
}

#[test]
fn a_state_is_gone_on_from_where_all_of_its_text_begins_the_prompt() {
    let engine = start(|_| {});
    let ask = |prompt: &[u32]| collect(engine.submit(Request::new(prompt.to_vec(), greedy(8))).unwrap()).0;
    let first = text(5, 40);
    let answer = ask(&first);
    // A turn later, and a prompt that parts from it in the middle.
    let later = [&first[..], &answer, &text(6, 9)].concat();
    let parted = [&first[..30], &text(7, 12)].concat();
    for prompt in [later, parted] {
        let expected = generate(&recurrent(), std::slice::from_ref(&prompt), &greedy(8), &mut no_stream).unwrap();
        assert_eq!(ask(&prompt), expected[0].tokens);
    }
    assert_eq!(engine.stats().drafted_tokens, 0);
}

#[test]
fn virtual_tokens_are_in_the_state() {
    let (dir, mut model) = (tempfile::tempdir().unwrap(), recurrent());
    let config = PeftConfig::PromptTuning(PromptTuningConfig::default());
    attach(&mut model, &config, 3).unwrap();
    adapter::save(dir.path(), &mut model, &config, "base").unwrap();
    // The log probability of every prompt token but the first, and those of the answer's best three.
    let (prompt, engine) = (text(2, 30), start(|_| {}));
    engine.load_adapter("prompt", dir.path(), false).unwrap();
    let scores = |request| {
        let bits = collect(engine.submit(request).unwrap()).1;
        bits.into_iter().take(29).map(f32::from_bits).collect::<Vec<_>>()
    };
    let found = scores(scored(&prompt, 1).with_adapter("prompt"));
    let ids: Vec<i32> = prompt.iter().map(|id| *id as i32).collect();
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &Device::flex());
    let hidden = model.forward(ids.clone().unsqueeze(), &Rows::Right, None, &Pass::eval());
    let logs = log_softmax(model.logits(hidden).squeeze_dim::<2>(0), 1).narrow(0, 0, 29);
    let expected = logs
        .gather(1, ids.narrow(0, 1, 29).unsqueeze_dim(1))
        .into_data()
        .try_to_vec::<f32>()
        .unwrap();
    let largest = |other: &[f32]| found.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert_eq!((found.len(), expected.len()), (29, 29));
    assert!(largest(&expected) < 1e-4, "{}", largest(&expected));
    assert!(largest(&scores(scored(&prompt, 1))) > 1e-2, "virtual tokens matter");
}
