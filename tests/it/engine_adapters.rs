//! Adapters of every kind that rows can choose, side by side in the engine, against PEFT.

use ft_infer::{Engine, EngineOptions, Event, Events, GenerationConfig, Request, RequestError, generate, no_stream};
use ft_model::{LoadDtype, Model};
use ft_peft::adapter;

use burn::tensor::Device;

use crate::support::{Array, arrays, fixture};

const CASES: [&str; 7] = [
    "lora_qv",
    "lora_all_rslora",
    "prefix",
    "prefix_projection",
    "prompt",
    "ptuning_mlp",
    "ptuning_lstm",
];

fn model(gpt2: bool) -> Model {
    let path = if gpt2 { "families/gpt2" } else { "peft/base" };
    Model::load(&fixture(path), LoadDtype::F32, &Device::flex()).unwrap()
}

fn engine(gpt2: bool, cases: &[&str], edit: impl FnOnce(&mut EngineOptions)) -> Engine {
    let mut options = EngineOptions::default();
    edit(&mut options);
    let engine = Engine::start(model(gpt2), options).unwrap();
    for case in cases {
        let info = engine.load_adapter(case, fixture("peft").join(case), false).unwrap();
        assert_eq!(
            info.virtual_tokens,
            if case.starts_with("lora") { 0 } else { 5 },
            "{case}"
        );
    }
    engine
}

/// The prompts of the goldens.
fn prompts() -> Vec<Vec<u32>> {
    let ids = &arrays(&fixture("peft/base_forward.safetensors"))["input_ids"];
    let row = |row: &[f64]| row.iter().map(|id| *id as u32).collect();
    ids.values.chunks(ids.shape[1]).map(row).collect()
}

/// Log probabilities of the tokens from the second on, from PEFT's logits.
fn expected(case: &str, prompt: &[u32], row: usize) -> Vec<f64> {
    let logits: Array = arrays(&fixture("peft").join(case).join("golden.safetensors"))["logits"].clone();
    let (columns, vocab) = (logits.shape[1], logits.shape[2]);
    let before = columns - prompt.len();
    let row = &logits.values[row * columns * vocab..];
    let score = |(at, id): (usize, &u32)| {
        let column = &row[(before + at) * vocab..][..vocab];
        let most = column.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = column.iter().map(|x| (x - most).exp()).sum();
        column[*id as usize] - most - sum.ln()
    };
    prompt[1..].iter().enumerate().map(score).collect()
}

fn greedy(tokens: usize) -> GenerationConfig {
    GenerationConfig {
        ignore_eos: true,
        ..GenerationConfig::greedy(tokens, [])
    }
}

fn ask(engine: &Engine, case: Option<&str>, prompt: &[u32], tokens: usize) -> Events {
    let request = Request {
        adapter: case.map(str::to_owned),
        scores: Some(0),
        prompt_scores: Some(0),
        ..Request::new(prompt.to_vec(), greedy(tokens))
    };
    engine.submit(request).unwrap()
}

/// Scores of the prompt, and the answer.
fn collect(mut events: Events) -> (Vec<f64>, Vec<u32>) {
    let (mut scores, mut ids) = (Vec::new(), Vec::new());
    loop {
        match events.wait().expect("the end is told") {
            Event::Prompt(found) => scores.extend(found.iter().flatten().map(|score| f64::from(score.logprob))),
            Event::Token { id, .. } => ids.push(id),
            Event::End(how) => {
                how.unwrap();
                return (scores, ids);
            }
        }
    }
}

/// All cases and the base at once, each on every prompt.
fn together(engine: &Engine, cases: &[&str], tokens: usize) -> Vec<(Vec<f64>, Vec<u32>)> {
    let prompts = prompts();
    let all = cases.iter().map(|case| Some(*case)).chain([None]);
    let events: Vec<Events> = all
        .flat_map(|case| prompts.iter().map(move |prompt| (case, prompt)))
        .map(|(case, prompt)| ask(engine, case, prompt, tokens))
        .collect();
    events.into_iter().map(collect).collect()
}

#[test]
fn one_batch_of_every_kind_scores_as_peft_does() {
    let cases = [
        (false, &CASES[..]),
        (true, &["lora_gpt2", "prefix_gpt2", "prompt_gpt2"][..]),
    ];
    for (gpt2, cases) in cases {
        let prompts = prompts();
        let found = together(&engine(gpt2, cases, |_| {}), cases, 1);
        for (at, case) in cases.iter().enumerate() {
            for (row, prompt) in prompts.iter().enumerate() {
                let (scores, _) = &found[at * prompts.len() + row];
                let golden = expected(case, prompt, row);
                assert_eq!(scores.len(), golden.len());
                for (own, golden) in scores.iter().zip(&golden) {
                    assert!((own - golden).abs() < 1e-4, "{case}: {own} vs {golden}");
                }
            }
        }
    }
}

#[test]
fn answers_are_those_of_the_adapter_alone() {
    let found = together(&engine(false, &CASES, |_| {}), &CASES, 8);
    let prompts = prompts();
    for (at, case) in CASES.iter().enumerate() {
        let mut adapted = model(false);
        adapter::load(&fixture("peft").join(case), &mut adapted).unwrap();
        let alone = generate(&adapted, &prompts, &greedy(8), &mut no_stream).unwrap();
        for (row, alone) in alone.iter().enumerate() {
            assert_eq!(found[at * prompts.len() + row].1, alone.tokens, "{case}");
        }
    }
}

#[test]
fn what_left_memory_comes_back_to_the_same_bits() {
    let wide = together(&engine(false, &CASES, |_| {}), &CASES, 8);
    let narrow = engine(false, &CASES, |options| options.adapters_in_memory = 2);
    assert_eq!(narrow.stats().adapters_in_memory, 2);
    assert_eq!(narrow.adapters().len(), CASES.len(), "all of them can be named");
    for _ in 0..2 {
        assert_eq!(together(&narrow, &CASES, 8), wide);
    }
    let stats = narrow.stats();
    assert_eq!(stats.adapters_in_memory, 2);
    assert!(stats.adapter_reloads >= 10, "{stats:?}");
    assert_eq!(stats.failed, 0);
}

#[test]
fn the_adapter_used_longest_ago_leaves() {
    let engine = engine(false, &CASES[..3], |options| options.adapters_in_memory = 3);
    let prompt = &prompts()[0];
    let mut reloads = Vec::new();
    for (name, case) in [
        ("lora_qv", None),
        ("more", Some("prompt")),
        ("lora_qv", None),
        ("lora_all_rslora", None),
    ] {
        if let Some(case) = case {
            engine.load_adapter(name, fixture("peft").join(case), false).unwrap();
        }
        collect(ask(&engine, Some(name), prompt, 1));
        reloads.push(engine.stats().adapter_reloads);
    }
    assert_eq!(reloads, [0, 0, 0, 1], "lora_qv was used, lora_all_rslora was not");
}

#[test]
fn virtual_tokens_take_their_place() {
    let engine = engine(false, &["prefix", "prompt"], |_| {});
    let prompt = |tokens| vec![5; tokens];
    let limit = engine.limit();
    let with = |case: Option<&str>, tokens| {
        let request = Request::new(prompt(tokens), greedy(1));
        engine
            .submit(Request {
                adapter: case.map(str::to_owned),
                ..request
            })
            .map(|events| collect(events).1.len())
    };
    assert_eq!(with(None, limit - 1), Ok(1));
    for case in ["prefix", "prompt"] {
        assert_eq!(with(Some(case), limit - 6), Ok(1));
        let refused = with(Some(case), limit - 5);
        assert!(matches!(refused, Err(RequestError::TooLong { .. })), "{refused:?}");
    }
}

#[test]
fn what_cannot_differ_from_row_to_row_is_refused_and_leaves_the_rest() {
    let engine = engine(false, &["lora_qv", "prefix"], |_| {});
    let before = together(&engine, &["lora_qv", "prefix"], 4);
    for case in [
        "ia3",
        "dora",
        "ln_tuning",
        "lora_embed",
        "vera",
        "lora_mts_head",
        "loha",
        "oft",
        "shira",
        "miss",
        "gralora",
        "osf",
    ] {
        let why = engine.load_adapter("x", fixture("peft").join(case), false).unwrap_err();
        assert!(why.contains("\"x\"") && why.contains("alone"), "{case}: {why}");
    }
    assert!(engine.load_adapter("x", "/no/such/folder", false).is_err());
    assert_eq!(together(&engine, &["lora_qv", "prefix"], 4), before);
    assert_eq!(engine.stats().adapters_in_memory, 2);
}

#[test]
fn an_adapter_can_be_loaded_while_requests_hold_every_place() {
    let engine = engine(false, &["lora_qv"], |options| options.adapters_in_memory = 1);
    let prompt = &prompts()[0];
    let long: Vec<Events> = (0..4).map(|_| ask(&engine, Some("lora_qv"), prompt, 50)).collect();
    engine.load_adapter("prompt", fixture("peft/prompt"), false).unwrap();
    let behind = collect(ask(&engine, Some("prompt"), prompt, 4));
    let alone = self::engine(false, &["prompt"], |_| {});
    assert_eq!(behind, collect(ask(&alone, Some("prompt"), prompt, 4)));
    assert!(long.into_iter().map(collect).all(|(_, ids)| ids.len() == 50));
    assert_eq!(engine.stats().adapters_in_memory, 1);
}

#[test]
fn a_folder_that_changed_is_not_read_as_if_it_had_not() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |case: &str| {
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(fixture("peft").join(case).join(name), dir.path().join(name)).unwrap();
        }
    };
    copy("lora_qv");
    let engine = engine(false, &["prefix"], |options| options.adapters_in_memory = 1);
    engine.load_adapter("own", dir.path(), false).unwrap();
    collect(ask(&engine, Some("prefix"), &prompts()[0], 1));
    copy("lora_all_rslora");
    let refused = engine
        .submit(Request::new(prompts()[0].clone(), greedy(1)).with_adapter("own"))
        .unwrap()
        .wait();
    let Some(Event::End(Err(RequestError::Adapter { why, .. }))) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains("have changed"), "{why}");
    engine.load_adapter("own", dir.path(), true).unwrap();
    let all = self::engine(false, &["lora_all_rslora"], |_| {});
    let [own, other] = [(&engine, "own"), (&all, "lora_all_rslora")]
        .map(|(engine, name)| collect(ask(engine, Some(name), &prompts()[0], 4)));
    assert_eq!(own, other);
}
