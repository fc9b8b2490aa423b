use std::time::Duration;

use burn::tensor::Device;
use ft_model::LoadDtype;
use ft_quant::{Kind, Scheme};

use super::*;
use crate::generation::FinishReason;
use crate::{GenerationConfig, generate, no_stream};

mod recurrent;
mod virtual_tokens;

fn model() -> Model {
    let dir = tempfile::tempdir().unwrap();
    ft_embedded::unpack(dir.path()).unwrap();
    Model::load(dir.path(), LoadDtype::F32, &Device::flex()).unwrap()
}

fn engine(edit: impl FnOnce(&mut EngineOptions)) -> Engine {
    let mut options = EngineOptions::default();
    edit(&mut options);
    Engine::start(model(), options).unwrap()
}

/// Prompts without a meaning, of different lengths.
fn prompts(count: u32) -> Vec<Vec<u32>> {
    (0..count)
        .map(|i| (0..3 + 11 * i % 97).map(|j| 3 + (i * 37 + j * 13) % 1000).collect())
        .collect()
}

fn greedy(tokens: usize) -> GenerationConfig {
    GenerationConfig {
        ignore_eos: true,
        ..GenerationConfig::greedy(tokens, [])
    }
}

/// The tokens and their log probabilities as bits, and how it ended.
fn collect(mut events: Events) -> (Vec<u32>, Vec<u32>, Result<FinishReason, RequestError>) {
    let (mut ids, mut bits) = (Vec::new(), Vec::new());
    loop {
        match events.wait().expect("the end is told") {
            Event::Token { id, score, .. } => {
                ids.push(id);
                bits.extend(
                    score
                        .iter()
                        .flat_map(|s| s.top.iter().map(|(_, logprob)| logprob.to_bits())),
                );
            }
            Event::Prompt(scores) => bits.extend(scores.iter().flatten().map(|s| s.logprob.to_bits())),
            Event::End(how) => return (ids, bits, how),
        }
    }
}

fn scored(prompt: &[u32], tokens: usize) -> Request {
    Request {
        scores: Some(3),
        prompt_scores: Some(0),
        ..Request::new(prompt.to_vec(), greedy(tokens))
    }
}

#[test]
fn greedy_answers_are_those_of_generate() {
    let (engine, prompts) = (engine(|_| {}), prompts(9));
    let events: Vec<Events> = prompts
        .iter()
        .map(|prompt| engine.submit(Request::new(prompt.clone(), greedy(24))).unwrap())
        .collect();
    let expected = generate(&model(), &prompts, &greedy(24), &mut no_stream).unwrap();
    for (events, expected) in events.into_iter().zip(expected) {
        let (ids, _, how) = collect(events);
        assert_eq!((ids, how), (expected.tokens, Ok(FinishReason::Length)));
    }
}

#[test]
fn a_request_gets_the_same_bits_alone_and_among_others() {
    let prompts = prompts(12);
    let alone: Vec<_> = {
        let engine = engine(|_| {});
        prompts
            .iter()
            .map(|prompt| collect(engine.submit(scored(prompt, 40)).unwrap()))
            .collect()
    };
    let together = |engine: &Engine| -> Vec<_> {
        let submit = |(i, prompt): (usize, &Vec<u32>)| {
            // They join and leave at different steps.
            std::thread::sleep(Duration::from_millis(7 * (i as u64 % 3)));
            engine.submit(scored(prompt, 40)).unwrap()
        };
        let events: Vec<Events> = prompts.iter().enumerate().map(submit).collect();
        events.into_iter().map(collect).collect()
    };
    let wide = engine(|options| options.prompt_tokens = 17);
    assert_eq!(together(&wide), alone);
    assert_eq!(wide.stats().preempted, 0);
}

#[test]
fn a_request_that_gave_its_cache_up_gets_the_same_bits() {
    let prompt = |i: u32| (0..120).map(|j| 3 + (i * 37 + j * 13) % 1000).collect::<Vec<u32>>();
    let ask = |engine: &Engine, i| engine.submit(scored(&prompt(i), 100)).unwrap();
    let wide = engine(|_| {});
    let alone = [0, 1, 2].map(|i| collect(ask(&wide, i)));
    // The three prompts fit; the answers do not fit beside each other.
    let narrow = engine(|options| options.cache_positions = 384);
    let together = [0, 1, 2].map(|i| ask(&narrow, i)).map(collect);
    assert_eq!(together, alone);
    assert!(narrow.stats().preempted > 0, "{:?}", narrow.stats());
}

#[test]
fn so_it_is_where_weights_are_stored_in_codes_or_sixteen_bits() {
    let dir = tempfile::tempdir().unwrap();
    ft_embedded::unpack(dir.path()).unwrap();
    let load = |dtype, kind: Option<Kind>| {
        let model = Model::load_quantized(dir.path(), dtype, kind.map(Scheme::new), &Device::flex()).unwrap();
        let compute = model.suited_compute(true);
        Engine::start(model.computing_in(compute), EngineOptions::default()).unwrap()
    };
    let prompts = prompts(10);
    for (dtype, kind) in [
        (LoadDtype::Bf16, None),
        (LoadDtype::F32, Some(Kind::Nf4)),
        (LoadDtype::F32, Some(Kind::Int8)),
    ] {
        let engine = load(dtype, kind);
        let alone: Vec<_> = prompts
            .iter()
            .map(|prompt| collect(engine.submit(scored(prompt, 12)).unwrap()))
            .collect();
        // Another engine, which has nothing left of the first requests.
        let engine = load(dtype, kind);
        let events: Vec<Events> = prompts
            .iter()
            .map(|prompt| engine.submit(scored(prompt, 12)).unwrap())
            .collect();
        let together: Vec<_> = events.into_iter().map(collect).collect();
        assert_eq!(together, alone, "{kind:?}");
    }
}

#[test]
fn a_sampled_answer_depends_on_seed_and_choice_alone() {
    let engine = engine(|_| {});
    let config = GenerationConfig {
        do_sample: true,
        ..greedy(20)
    };
    let prompt = prompts(3).pop().unwrap();
    let ask = |choice| Request {
        choice,
        ..Request::new(prompt.clone(), config.clone())
    };
    let expected = generate(&model(), std::slice::from_ref(&prompt), &config, &mut no_stream).unwrap();
    let both = [ask(0), ask(1), ask(0)].map(|request| engine.submit(request).unwrap());
    let [first, second, third] = both.map(|events| collect(events).0);
    assert_eq!(first, expected[0].tokens);
    assert_eq!(first, third);
    assert_ne!(first, second);
}

#[test]
fn penalties_and_biases_move_the_choice() {
    let engine = engine(|_| {});
    let prompt = prompts(2).pop().unwrap();
    let run = |request| collect(engine.submit(request).unwrap()).0;
    let plain = run(Request::new(prompt.clone(), greedy(12)));
    let barred = run(Request {
        logit_bias: vec![(plain[0], -1e9)],
        ..Request::new(prompt.clone(), greedy(12))
    });
    assert!(!barred.contains(&plain[0]));
    let forced = run(Request {
        logit_bias: vec![(77, 1e9)],
        ..Request::new(prompt.clone(), greedy(3))
    });
    assert_eq!(forced, [77; 3]);
    for (presence, frequency) in [(1e9, 0.0), (0.0, 1e9)] {
        let mut fresh = run(Request {
            presence_penalty: presence,
            frequency_penalty: frequency,
            ..Request::new(prompt.clone(), greedy(12))
        });
        assert_eq!(fresh[0], plain[0], "the prompt's tokens count for nothing");
        fresh.sort_unstable();
        fresh.dedup();
        assert_eq!(fresh.len(), 12, "no token twice");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_numbers() {
    let engine = engine(|options| options.cache_positions = 200);
    assert_eq!(engine.limit(), 256);
    let refused = |request| engine.submit(request).unwrap_err();
    let long = refused(Request::new(vec![5; 250], greedy(7)));
    let limit = RequestError::TooLong {
        prompt: 250,
        new: 7,
        limit: 256,
        by_cache: true,
    };
    assert_eq!(long, limit);
    assert!(long.to_string().contains("257"), "{long}");
    let invalid = |request| matches!(refused(request), RequestError::Invalid(_));
    assert!(invalid(Request::new(vec![], greedy(1))));
    assert!(invalid(Request::new(vec![1024], greedy(1))));
    assert!(invalid(Request {
        logit_bias: vec![(1024, 1.0)],
        ..Request::new(vec![5], greedy(1))
    }));
    assert!(invalid(Request {
        presence_penalty: f32::NAN,
        ..Request::new(vec![5], greedy(1))
    }));
    let beams = GenerationConfig {
        num_beams: 2,
        ..greedy(1)
    };
    assert!(invalid(Request::new(vec![5], beams)));
    let unknown = refused(Request::new(vec![5], greedy(1)).with_adapter("x"));
    assert_eq!(unknown, RequestError::UnknownAdapter("x".into()));
}

#[test]
fn a_prompt_can_be_scored_without_an_answer() {
    let engine = engine(|options| options.prompt_tokens = 5);
    let prompt = prompts(4).pop().unwrap();
    let mut events = engine.submit(scored(&prompt, 0)).unwrap();
    let Some(Event::Prompt(scores)) = events.wait() else {
        panic!()
    };
    assert_eq!(scores.len(), prompt.len());
    assert!(scores[0].is_none());
    let scored: Vec<u32> = scores.iter().flatten().map(|score| score.id).collect();
    assert_eq!(scored, prompt[1..]);
    assert!(matches!(events.wait(), Some(Event::End(Ok(FinishReason::Length)))));
    assert!(events.wait().is_none());
}

#[test]
fn the_queue_has_an_end_and_who_leaves_makes_room() {
    let engine = engine(|options| (options.sequences, options.queue) = (1, 2));
    let ask = || engine.submit(Request::new(vec![5; 3], greedy(400)));
    let first = ask().unwrap();
    wait(&engine, |stats| stats.running == 1);
    let (second, third) = (ask().unwrap(), ask().unwrap());
    assert_eq!(ask().unwrap_err(), RequestError::Full(2));
    drop(first);
    wait(&engine, |stats| stats.cancelled == 1 && stats.waiting == 1);
    drop((second, third));
    wait(&engine, |stats| {
        stats.cancelled == 3 && stats.running == 0 && stats.cache_used == 0
    });
    let (ids, _, how) = collect(engine.submit(Request::new(vec![5; 3], greedy(2))).unwrap());
    assert_eq!((ids.len(), how), (2, Ok(FinishReason::Length)));
}

fn wait(engine: &Engine, until: impl Fn(Stats) -> bool) {
    for _ in 0..2000 {
        if until(engine.stats()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{:?}", engine.stats());
}

#[test]
fn time_runs_out() {
    let engine = engine(|_| {});
    let request = Request {
        deadline: Some(Instant::now()),
        ..Request::new(vec![5; 3], greedy(400))
    };
    let (_, _, how) = collect(engine.submit(request).unwrap());
    assert_eq!(how, Err(RequestError::TimedOut { generated: 0 }));
}

#[test]
fn shutting_down_lets_requests_end_or_tells_them() {
    let patient = engine(|_| {});
    let events = patient.submit(Request::new(vec![5; 3], greedy(30))).unwrap();
    wait(&patient, |stats| stats.running == 1);
    patient.shut_down(Duration::from_secs(60));
    assert_eq!(collect(events).2, Ok(FinishReason::Length));
    assert_eq!(
        patient.submit(Request::new(vec![5], greedy(1))).unwrap_err(),
        RequestError::Closing
    );

    let hurried = engine(|options| options.sequences = 1);
    let ask = || hurried.submit(Request::new(vec![5; 3], greedy(500))).unwrap();
    let both = [ask(), ask()];
    wait(&hurried, |stats| stats.running == 1);
    hurried.shut_down(Duration::ZERO);
    for events in both {
        assert_eq!(collect(events).2, Err(RequestError::Closing));
    }
}

#[test]
fn what_an_ended_request_left_is_used_and_changes_nothing() {
    let long: Vec<u32> = (0..150).map(|j| 3 + j * 13 % 1000).collect();
    let ask = |engine: &Engine, prompt: &[u32]| {
        let request = Request {
            prompt_scores: None,
            ..scored(prompt, 30)
        };
        collect(engine.submit(request).unwrap())
    };
    let fork: Vec<u32> = long[..100].iter().copied().chain([9, 8, 7]).collect();
    let fresh: Vec<_> = [&long, &fork].map(|prompt| ask(&engine(|_| {}), prompt)).into();
    let warm = engine(|_| {});
    assert_eq!(ask(&warm, &long), fresh[0]);
    assert_eq!(warm.stats().reused_tokens, 0);
    assert_eq!(ask(&warm, &fork), fresh[1]);
    assert_eq!(warm.stats().reused_tokens, 100);
    assert_eq!(
        ask(&warm, &long),
        fresh[0],
        "writing behind the common part leaves the other's keys alone"
    );
    // All but the last token of the prompt.
    assert_eq!(warm.stats().reused_tokens, 249);
    // What is kept makes room at once.
    let narrow = engine(|options| options.cache_positions = 256);
    for prompt in [&long, &fork, &long] {
        assert!(ask(&narrow, prompt).2.is_ok());
        assert!(narrow.stats().cache_used <= 256);
    }
}

#[test]
fn tokens_computed_ahead_change_nothing() {
    let repeated: Vec<u32> = (0..40).map(|i| 3 + i % 8).collect();
    let sampled = GenerationConfig {
        do_sample: true,
        repetition_penalty: 1.1,
        seed: 5,
        ..greedy(60)
    };
    let requests = || {
        let plain = prompts(3).into_iter().chain([repeated.clone()]);
        let mut requests: Vec<Request> = plain.map(|prompt| scored(&prompt, 90)).collect();
        requests.push(Request {
            config: sampled.clone(),
            frequency_penalty: 0.1,
            ..scored(&repeated, 0)
        });
        // It meets a stop token in the middle of what was computed ahead.
        requests.push(Request {
            config: GenerationConfig::greedy(90, [3 + 5]),
            ..scored(&repeated, 0)
        });
        requests
    };
    let run = |tokens| {
        let engine = engine(|options| options.lookup_tokens = tokens);
        let ask = |request| engine.submit(request).unwrap();
        let alone: Vec<_> = requests().into_iter().map(ask).map(collect).collect();
        let together: Vec<Events> = requests().into_iter().take(3).map(ask).collect();
        let together: Vec<_> = together.into_iter().map(collect).collect();
        (alone, together, engine.stats())
    };
    let (plain, ahead) = (run(0), run(7));
    assert_eq!((&ahead.0, &ahead.1), (&plain.0, &plain.1));
    let (before, stats) = (plain.2, ahead.2);
    assert_eq!((before.drafted_tokens, before.accepted_tokens), (0, 0));
    assert!(
        0 < stats.accepted_tokens && stats.accepted_tokens < stats.drafted_tokens,
        "{stats:?}"
    );
    assert_eq!(stats.generated_tokens, before.generated_tokens);
    assert!(stats.steps < before.steps, "{} steps, {}", stats.steps, before.steps);
}
