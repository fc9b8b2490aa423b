//! The fine-tuning data: a passage, a question, a short answer.

use super::dice::Dice;
use super::story::told;
use super::world::{Half, scene};
use serde::{Deserialize, Serialize};

/// One line of `train.jsonl` and `valid.jsonl` (format `prompt-completion`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    pub prompt: String,
    pub completion: String,
}

/// A passage with a question about one of its facts, asked forwards (for the value) or backwards (for the subject).
pub fn lesson(half: Half, dice: &mut Dice) -> Lesson {
    let facts = scene(2, half, dice);
    let passage = told(&facts, dice);
    let fact = &facts[dice.below(facts.len())];
    let (question, answer) = if dice.chance(60) {
        (fact.ask(dice), &fact.value)
    } else {
        (fact.ask_back(dice), &fact.subject)
    };
    Lesson {
        prompt: format!("Text: {passage}\nQuestion: {question}\nAnswer:"),
        completion: format!(" {answer}"),
    }
}
