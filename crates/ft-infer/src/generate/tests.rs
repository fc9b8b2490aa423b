use super::*;
use crate::no_stream;
use crate::table::Table;

type OnToken<'a> = &'a mut dyn FnMut(Token) -> ControlFlow<()>;

fn run(
    table: &Table,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    on_token: OnToken<'_>,
) -> Result<Vec<Generation>> {
    generate(&table.model(), prompts, config, on_token)
}

fn tokens(generations: &[Generation]) -> Vec<Vec<u32>> {
    generations.iter().map(|generation| generation.tokens.clone()).collect()
}

#[test]
fn greedy_follows_the_likeliest_until_a_stop_token_or_the_limit() {
    let config = GenerationConfig::greedy(4, [5]);
    let generations = run(&Table::chain(8), &[vec![0], vec![3], vec![6]], &config, &mut no_stream).unwrap();
    assert_eq!(tokens(&generations), [vec![1, 2, 3, 4], vec![4, 5], vec![7, 7, 7, 7]]);
    let reasons: Vec<_> = generations.iter().map(|generation| generation.finish_reason).collect();
    assert_eq!(
        reasons,
        [FinishReason::Length, FinishReason::Stop, FinishReason::Length]
    );
    assert_eq!(generations[1].content(), [4], "the stop token is no part of the answer");
    assert_eq!(generations[0].content(), [1, 2, 3, 4]);
}

#[test]
fn ended_rows_leave_and_others_take_their_place() {
    let steps = |batch_size| {
        let config = GenerationConfig {
            batch_size,
            ..GenerationConfig::greedy(5, [5])
        };
        let (model, prompts) = (Table::chain(8).model(), [vec![0], vec![3], vec![4]]);
        let (generations, stats) = super::run(&model, &prompts, &Among::default(), &config, &mut no_stream).unwrap();
        assert_eq!(tokens(&generations), [vec![1, 2, 3, 4, 5], vec![4, 5], vec![5]]);
        assert_eq!((stats.generated_tokens, stats.preempted), (8, 0));
        stats.steps
    };
    // The third begins beside the first when the second has ended.
    assert_eq!([steps(3), steps(2), steps(1)], [5, 5, 8]);
}

#[test]
fn beams_give_their_cache_up_and_find_the_same_answer() {
    let (model, prompts) = (Table::random(20, 4).model(), [vec![1], vec![2, 3]]);
    let config = GenerationConfig {
        num_beams: 3,
        ..GenerationConfig::greedy(200, [])
    };
    let run = |edit: &dyn Fn(&mut EngineOptions)| {
        let jobs = prompts::jobs(
            &prompts,
            Limits {
                vocab: 20,
                positions: 256,
            },
            200,
        )
        .unwrap();
        let mut options = sizes(&model, &jobs, &config);
        edit(&mut options);
        let counters = Arc::new(Counters::default());
        let mut scheduler = Scheduler::new(&model, options, counters.clone());
        let jobs = jobs.iter();
        let mut rows: Vec<Row> = jobs
            .map(|job| start(job, &model, &Among::default(), &config, &mut scheduler))
            .collect();
        while !scheduler.is_idle() {
            scheduler.admit(|_, _| Ok(Some(KvCache::new(1))));
            let ended = scheduler.step(&model, &|_| {});
            scheduler.settle(ended);
        }
        for row in &mut rows {
            row.hear(&mut ControlFlow::Continue(()), &mut no_stream).unwrap();
        }
        let answers: Vec<_> = rows.into_iter().map(|row| row.tokens).collect();
        (answers, counters.read().preempted)
    };
    let (wide, narrow) = (run(&|_| {}), run(&|options| options.cache_positions = 3 * 256));
    assert_eq!((wide.1, narrow.1), (0, 1));
    assert_eq!(wide.0, narrow.0);
}

#[test]
fn ignoring_the_stop_tokens_goes_on_to_the_limit() {
    let config = GenerationConfig {
        ignore_eos: true,
        ..GenerationConfig::greedy(3, [5])
    };
    let generations = run(&Table::chain(8), &[vec![4]], &config, &mut no_stream).unwrap();
    assert_eq!(tokens(&generations), [[5, 6, 7]]);
}

#[test]
fn a_row_ends_with_the_positions() {
    let mut table = Table::chain(9);
    table.positions = 4;
    let generations = run(
        &table,
        &[vec![0, 1], vec![0]],
        &GenerationConfig::greedy(9, []),
        &mut no_stream,
    )
    .unwrap();
    assert_eq!(tokens(&generations), [vec![2, 3], vec![1, 2, 3]]);
    assert!(
        generations
            .iter()
            .all(|generation| generation.finish_reason == FinishReason::Length)
    );
}

#[test]
fn the_callback_sees_every_token_in_its_row() {
    let mut seen = vec![Vec::new(); 3];
    let mut last = Vec::new();
    let config = GenerationConfig {
        batch_size: 2,
        ..GenerationConfig::greedy(4, [5])
    };
    let generations = run(
        &Table::chain(8),
        &[vec![0], vec![0, 3], vec![6]],
        &config,
        &mut |token| {
            seen[token.row].push(token.id);
            last.extend(token.finish.map(|reason| (token.row, reason)));
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert_eq!(seen, tokens(&generations));
    assert_eq!(
        last,
        [
            (1, FinishReason::Stop),
            (0, FinishReason::Length),
            (2, FinishReason::Length)
        ]
    );
}

#[test]
fn breaking_off_keeps_what_there_is() {
    let mut left = 3;
    let config = GenerationConfig {
        batch_size: 2,
        ..GenerationConfig::greedy(4, [])
    };
    let generations = run(&Table::chain(8), &[vec![0], vec![3], vec![6]], &config, &mut |_| {
        left -= 1;
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .unwrap();
    assert_eq!(tokens(&generations), [vec![1, 2], vec![4, 5], vec![]]);
    assert!(
        generations
            .iter()
            .all(|generation| generation.finish_reason == FinishReason::Cancelled)
    );
}

#[test]
fn a_sampled_row_depends_on_seed_and_index_only() {
    let config = GenerationConfig {
        do_sample: true,
        top_k: 0,
        ..GenerationConfig::greedy(12, [])
    };
    let sample = |prompts: &[Vec<u32>], config: &GenerationConfig| {
        tokens(&run(&Table::random(20, 3), prompts, config, &mut no_stream).unwrap())
    };
    let prompts = [vec![1], vec![1, 2, 3], vec![7, 8], vec![9], vec![1]];
    let all = sample(&prompts, &config);
    assert_eq!(all, sample(&prompts, &config), "the same seed");
    assert_eq!(
        all,
        sample(
            &prompts,
            &GenerationConfig {
                batch_size: 1,
                ..config.clone()
            }
        ),
        "other batches"
    );
    assert_eq!(all[..2], sample(&prompts[..2], &config), "other neighbours");
    assert_ne!(all[0], all[4], "the same prompt twice");
    assert_ne!(
        all,
        sample(&prompts, &GenerationConfig { seed: 1, ..config }),
        "another seed"
    );
}

#[test]
fn penalties_change_the_greedy_choice() {
    let plain = GenerationConfig::greedy(3, []);
    let mut table = Table::chain(4);
    table.logits.iter_mut().flatten().for_each(|logit| *logit -= 10.0);
    let run = |config| tokens(&run(&table, &[vec![3]], &config, &mut no_stream).unwrap());
    assert_eq!(run(plain.clone()), [[3, 3, 3]]);
    assert_eq!(
        run(GenerationConfig {
            repetition_penalty: 1e9,
            ..plain.clone()
        }),
        [[0, 1, 2]]
    );
    assert_eq!(
        run(GenerationConfig {
            no_repeat_ngram_size: 1,
            ..plain
        }),
        [[0, 1, 2]]
    );
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let mut table = Table::chain(4);
    table.logits[2] = vec![f32::NAN; 4];
    for config in [
        GenerationConfig::greedy(3, []),
        GenerationConfig {
            do_sample: true,
            ..GenerationConfig::greedy(3, [])
        },
        GenerationConfig {
            repetition_penalty: 1.1,
            ..GenerationConfig::greedy(3, [])
        },
        GenerationConfig {
            num_beams: 2,
            ..GenerationConfig::greedy(3, [])
        },
    ] {
        let error = run(&table, &[vec![3], vec![2]], &config, &mut no_stream).unwrap_err();
        assert!(matches!(error, Error::NotFinite { row: 1, generated: 0 }), "{error}");
    }
}

#[test]
fn bad_settings_are_found_before_anything_runs() {
    let table = Table::chain(4);
    let config = GenerationConfig {
        batch_size: 0,
        ..GenerationConfig::default()
    };
    assert!(matches!(
        run(&table, &[vec![1]], &config, &mut no_stream),
        Err(Error::Settings(_))
    ));
    let config = GenerationConfig {
        num_beams: 2,
        eos_token_id: (0..9).collect(),
        ..GenerationConfig::default()
    };
    assert!(matches!(
        run(&table, &[vec![1]], &config, &mut no_stream),
        Err(Error::Settings(_))
    ));
    assert_eq!(
        run(&table, &[], &GenerationConfig::default(), &mut no_stream).unwrap(),
        []
    );
}
