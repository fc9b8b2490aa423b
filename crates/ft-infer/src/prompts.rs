//! Prompts that a model can take.

use crate::error::PromptProblem;
use crate::{Error, Result};

/// What a model can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) vocab: usize,
    pub(crate) positions: usize,
}

/// One prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    /// Index of the prompt in the caller's list: it names the random stream.
    pub(crate) row: usize,
    pub(crate) prompt: &'a [u32],
    /// Most tokens to generate: positions may end before `max_new_tokens`.
    pub(crate) budget: usize,
}

/// Checks every prompt and gives each its budget.
pub(crate) fn jobs<'a>(prompts: &'a [Vec<u32>], limits: Limits, max_new_tokens: usize) -> Result<Vec<Job<'a>>> {
    let problems: Vec<_> = prompts
        .iter()
        .enumerate()
        .filter_map(|(row, prompt)| problem(row, prompt, limits))
        .collect();
    if !problems.is_empty() {
        return Err(Error::Prompts(problems));
    }
    let job = |(row, prompt): (usize, &'a Vec<u32>)| Job {
        row,
        prompt,
        budget: max_new_tokens.min(limits.positions - prompt.len()),
    };
    Ok(prompts.iter().enumerate().map(job).collect())
}

fn problem(row: usize, prompt: &[u32], limits: Limits) -> Option<PromptProblem> {
    let Limits { vocab, positions } = limits;
    if prompt.is_empty() {
        return Some(PromptProblem::Empty { row });
    }
    if prompt.len() >= positions {
        return Some(PromptProblem::TooLong {
            row,
            tokens: prompt.len(),
            positions,
        });
    }
    let index = prompt.iter().position(|&id| id as usize >= vocab)?;
    Some(PromptProblem::OutOfVocabulary {
        row,
        index,
        id: prompt[index],
        vocab,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        vocab: 10,
        positions: 4,
    };

    #[test]
    fn a_row_ends_where_the_positions_end() {
        let prompts = [vec![1, 2, 3], vec![4]];
        let budgets: Vec<_> = jobs(&prompts, LIMITS, 2)
            .unwrap()
            .iter()
            .map(|job| job.budget)
            .collect();
        assert_eq!(budgets, [1, 2]);
    }

    #[test]
    fn every_bad_prompt_is_reported() {
        let prompts = [vec![], vec![1], vec![1, 2, 3, 4], vec![9, 10]];
        let Error::Prompts(problems) = jobs(&prompts, LIMITS, 2).unwrap_err() else {
            panic!()
        };
        assert_eq!(
            problems,
            [
                PromptProblem::Empty { row: 0 },
                PromptProblem::TooLong {
                    row: 2,
                    tokens: 4,
                    positions: 4
                },
                PromptProblem::OutOfVocabulary {
                    row: 3,
                    index: 1,
                    id: 10,
                    vocab: 10
                },
            ]
        );
    }
}
