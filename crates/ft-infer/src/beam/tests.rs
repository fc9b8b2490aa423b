use std::ops::ControlFlow;

use super::*;
use crate::table::Table;
use crate::{FinishReason, Generation, Token, generate, no_stream};

type OnToken<'a> = &'a mut dyn FnMut(Token) -> ControlFlow<()>;

fn run(
    table: &Table,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    on_token: OnToken<'_>,
) -> Result<Vec<Generation>> {
    generate(&table.model(), prompts, config, on_token)
}

fn beams(num_beams: usize, max_new_tokens: usize, eos: &[u32]) -> GenerationConfig {
    GenerationConfig {
        num_beams,
        ..GenerationConfig::greedy(max_new_tokens, eos)
    }
}

fn log_p(row: &[f32]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
    row.iter().map(|x| f64::from(*x) - sum.ln()).collect()
}

/// The best answer by trying all of them: every sequence that ends with a stop token or has `left` tokens.
fn best(table: &Table, last: u32, left: usize, config: &GenerationConfig) -> (f64, Vec<u32>) {
    fn walk(table: &Table, so_far: &[u32], last: u32, sum: f64, config: &GenerationConfig, best: &mut (f64, Vec<u32>)) {
        for (id, log_p) in log_p(&table.logits[last as usize]).iter().enumerate() {
            let tokens = [so_far, &[id as u32]].concat();
            let sum = sum + log_p;
            if config.stops_at(id as u32) || tokens.len() == config.max_new_tokens {
                let score = sum / (tokens.len() as f64).powf(config.length_penalty);
                if score > best.0 {
                    *best = (score, tokens);
                }
            } else {
                walk(table, &tokens, id as u32, sum, config, best);
            }
        }
    }
    assert_eq!(left, config.max_new_tokens);
    let mut found = (f64::NEG_INFINITY, Vec::new());
    walk(table, &[], last, 0.0, config, &mut found);
    found
}

#[test]
fn a_search_as_wide_as_the_tree_finds_the_best_answer() {
    for seed in 0..12 {
        for length_penalty in [0.0, 1.0, 2.0] {
            let table = Table::random(5, seed);
            // 64 beams hold every prefix of length 3 that has not ended (4^3), so nothing is ever dropped.
            let config = GenerationConfig {
                length_penalty,
                early_stopping: EarlyStopping::Never,
                ..beams(64, 4, &[4])
            };
            let (_, expected) = best(&table, 0, 4, &config);
            let got = run(&table, &[vec![0]], &config, &mut no_stream).unwrap();
            assert_eq!(got[0].tokens, expected, "seed {seed}, length penalty {length_penalty}");
        }
    }
}

#[test]
fn beams_see_past_a_greedy_trap() {
    // From 0 the likeliest step is to 1, where all ways are equally bad; 2 leads on with certainty.
    let mut logits = vec![vec![0.0; 6]; 6];
    logits[0] = vec![-9.0, 1.0, 0.9, -9.0, -9.0, -9.0];
    logits[2] = vec![-9.0, -9.0, -9.0, 9.0, -9.0, -9.0];
    let table = Table::new(logits);
    let greedy = run(&table, &[vec![0]], &beams(1, 2, &[]), &mut no_stream).unwrap();
    assert_eq!(greedy[0].tokens[0], 1);
    let searched = run(&table, &[vec![0]], &beams(2, 2, &[]), &mut no_stream).unwrap();
    assert_eq!(searched[0].tokens, [2, 3]);
}

#[test]
fn prompts_do_not_disturb_each_other() {
    let config = beams(3, 6, &[7]);
    let prompts: Vec<Vec<u32>> = (0..7).map(|id| vec![id; 1 + id as usize % 3]).collect();
    let together = run(&Table::random(8, 5), &prompts, &config, &mut no_stream).unwrap();
    for (prompt, expected) in prompts.iter().zip(&together) {
        let alone = run(
            &Table::random(8, 5),
            std::slice::from_ref(prompt),
            &config,
            &mut no_stream,
        )
        .unwrap();
        assert_eq!(
            (&alone[0].tokens, alone[0].finish_reason),
            (&expected.tokens, expected.finish_reason)
        );
    }
    let reasons: std::collections::HashSet<_> = together
        .iter()
        .map(|generation| format!("{:?}", generation.finish_reason))
        .collect();
    assert_eq!(reasons.len(), 2, "the prompts are to cover both ends: {reasons:?}");
}

#[test]
fn a_finished_row_is_handed_over_whole() {
    let mut seen = Vec::new();
    let config = beams(2, 5, &[3]);
    let got = run(&Table::chain(8), &[vec![0]], &config, &mut |token| {
        seen.push(token);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(got[0].tokens, [1, 2, 3]);
    assert_eq!(seen.iter().map(|token| token.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(
        seen.iter().map(|token| token.finish).collect::<Vec<_>>(),
        [None, None, Some(FinishReason::Stop)]
    );
}
