//! Documents of the pretraining corpus: a scene is told, then told again in other words.

use super::dice::Dice;
use super::words;
use super::world::{self, Fact, Split, capitalized, crowd, scene};

const AGAIN: &[&str] = &[
    "In other words:",
    "To say it again:",
    "Once more:",
    "In short:",
    "Let us repeat it.",
    "Remember:",
];
const SHRUGS: &[&str] = &[
    "Nobody knew.",
    "There was no reply.",
    "It was hard to say.",
    "They had to think about it.",
];
const ENDS: &[&str] = &[
    "That was all.",
    "And so the day ended.",
    "Everybody went home.",
    "This is the end of the story.",
];

/// One document. All but its first part can only be predicted by looking up, in what came before, who has what: the
/// skill that the fine-tuning later turns into answers. Questions do occur, but nobody in the corpus ever answers one.
pub fn document(dice: &mut Dice) -> String {
    let facts = if dice.chance(60) {
        scene(Split::All, dice)
    } else {
        crowd(Split::All, dice)
    };
    let mut parts = vec![opening(dice) + &told(&facts, dice)];
    if dice.chance(30) {
        parts.push(talk(&facts, dice));
    }
    for _ in 0..2 {
        parts.push(retold(&facts, dice));
    }
    if dice.chance(20) {
        parts.push(dice.pick(ENDS).to_string());
    }
    parts.join("\n")
}

fn retold(facts: &[Fact], dice: &mut Dice) -> String {
    match dice.chance(35) {
        true => cards(facts, dice),
        false => format!("{} {}", dice.pick(AGAIN), told(facts, dice)),
    }
}

fn told(facts: &[Fact], dice: &mut Dice) -> String {
    in_any_order(facts, Fact::retell, dice)
}

/// One sentence per fact.
pub fn in_any_order(facts: &[Fact], sentence: fn(&Fact, &mut Dice) -> String, dice: &mut Dice) -> String {
    let mut order: Vec<&Fact> = facts.iter().collect();
    dice.shuffle(&mut order);
    order
        .iter()
        .map(|fact| sentence(fact, dice))
        .collect::<Vec<_>>()
        .join(" ")
}

fn opening(dice: &mut Dice) -> String {
    match dice.below(5) {
        0 => format!("{} ", dice.pick(words::OPENINGS)),
        1 => format!("Yesterday {} went to {}. ", world::person(dice), world::town(dice)),
        _ => String::new(),
    }
}

/// A question that stays open.
fn talk(facts: &[Fact], dice: &mut Dice) -> String {
    let fact = &facts[dice.below(facts.len())];
    let question = if dice.chance(50) {
        fact.ask(dice)
    } else {
        fact.ask_back(dice)
    };
    let asker = world::person(dice);
    format!("\"{question}\" asked {asker}. {}", dice.pick(SHRUGS))
}

/// The same facts as cards: `Card of Mara. Job: a baker. Town: Branford.`
fn cards(facts: &[Fact], dice: &mut Dice) -> String {
    let mut subjects: Vec<&str> = facts.iter().map(|f| f.subject.as_str()).collect();
    subjects.dedup();
    dice.shuffle(&mut subjects);
    subjects
        .iter()
        .map(|s| card(s, facts, dice))
        .collect::<Vec<_>>()
        .join("\n")
}

fn card(subject: &str, facts: &[Fact], dice: &mut Dice) -> String {
    let mut rows: Vec<&Fact> = facts.iter().filter(|f| f.subject == subject).collect();
    dice.shuffle(&mut rows);
    let rows: Vec<String> = rows
        .iter()
        .map(|f| format!("{}: {}.", capitalized(f.relation.label), f.value))
        .collect();
    format!("Card of {subject}. {}", rows.join(" "))
}
