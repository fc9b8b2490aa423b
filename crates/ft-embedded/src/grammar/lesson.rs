//! The fine-tuning data: a passage, a question, a short answer.

use super::dice::Dice;
use super::story::in_any_order;
use super::world::{Fact, Split, scene};
use serde::{Deserialize, Serialize};

/// One line of `train.jsonl` and `valid.jsonl` (format `prompt-completion`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    pub prompt: String,
    pub completion: String,
}

/// A passage with a question about one of its facts, asked forwards (for the value) or backwards (for the subject).
pub fn lesson(split: Split, dice: &mut Dice) -> Lesson {
    let facts = scene(split, dice);
    let passage = in_any_order(&facts, Fact::tell, dice);
    let fact = &facts[dice.below(facts.len())];
    let (question, answer) = if dice.chance(70) {
        (fact.ask(dice), &fact.value)
    } else {
        (fact.ask_back(dice), &fact.subject)
    };
    Lesson {
        prompt: format!("{passage}\nQuestion: {question}\nAnswer:"),
        completion: format!(" {answer}"),
    }
}
