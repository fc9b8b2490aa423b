//! People, things and the facts about them.

use super::dice::Dice;
use super::relations::{self, About, Relation};
use super::words;

/// Which names and things may appear. Train and held-out share words but no name, no town and no thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Everything: the corpus of the base model.
    All,
    /// Seen in fine-tuning.
    Train,
    /// Kept for the evaluation.
    HeldOut,
}

impl Split {
    /// One name in eight is held out, decided by the name alone (FNV-1a), so that no list has to be kept.
    fn holds(self, name: &str) -> bool {
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
        });
        let held_out = (hash >> 32) % 8 == 0;
        match self {
            Split::All => true,
            Split::Train => !held_out,
            Split::HeldOut => held_out,
        }
    }

    pub(super) fn draw(self, make: impl Fn(&mut Dice) -> String, dice: &mut Dice) -> String {
        loop {
            let name = make(dice);
            if self.holds(&name) {
                return name;
            }
        }
    }
}

/// One statement: `subject` is `value` in the sense of `relation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub subject: String,
    pub relation: &'static Relation,
    pub value: String,
}

impl Fact {
    /// The fact as a sentence that ends with the value.
    pub fn tell(&self, dice: &mut Dice) -> String {
        self.fill(dice.pick(self.relation.tell))
    }

    /// The fact as a sentence, now and then turned round to end with the subject.
    pub fn retell(&self, dice: &mut Dice) -> String {
        let turned = dice.chance(20);
        self.fill(dice.pick(if turned { self.relation.turn } else { self.relation.tell }))
    }

    /// A question that the value answers.
    pub fn ask(&self, dice: &mut Dice) -> String {
        self.fill(dice.pick(self.relation.ask))
    }

    /// A question that the subject answers.
    pub fn ask_back(&self, dice: &mut Dice) -> String {
        self.fill(dice.pick(self.relation.ask_back))
    }

    fn fill(&self, pattern: &str) -> String {
        capitalized(&pattern.replace("{s}", &self.subject).replace("{v}", &self.value))
    }
}

/// `the red key` becomes `The red key`.
pub fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// One person and one thing with two to four facts each: every relation occurs once.
pub fn scene(split: Split, dice: &mut Dice) -> Vec<Fact> {
    both(1, (2, 4), split, dice)
}

/// Two people and two things with one or two facts each: who has what has to be told apart.
pub fn crowd(split: Split, dice: &mut Dice) -> Vec<Fact> {
    both(2, (1, 2), split, dice)
}

fn both(subjects: usize, (least, most): (usize, usize), split: Split, dice: &mut Dice) -> Vec<Fact> {
    let mut facts = Vec::new();
    for about in [About::Person, About::Thing] {
        let relations = dice.between(least, most);
        facts.extend(group(about, subjects, relations, split, dice));
    }
    facts
}

/// The same relations of several subjects. Every question about them has one answer: no two subjects share a word, and no
/// two share a value of the same relation.
fn group(about: About, subjects: usize, relations: usize, split: Split, dice: &mut Dice) -> Vec<Fact> {
    let (make, known): (fn(&mut Dice) -> String, _) = match about {
        About::Person => (person, relations::OF_PEOPLE),
        About::Thing => (thing, relations::OF_THINGS),
    };
    let relations = some(known, relations, dice);
    let mut facts: Vec<Fact> = Vec::new();
    for _ in 0..subjects {
        let taken = |s: &str| facts.iter().any(|f| alike(&f.subject, s));
        let subject = fresh(|dice| split.draw(make, dice), taken, dice);
        for relation in &relations {
            let taken = |v: &str| facts.iter().any(|f| f.relation == *relation && f.value == v);
            let value = fresh(|dice| value(relation, split, dice), taken, dice);
            facts.push(Fact {
                subject: subject.clone(),
                relation,
                value,
            });
        }
    }
    facts
}

/// Whether two subjects share a word: "the red key" and "the red lamp".
fn alike(a: &str, b: &str) -> bool {
    a.split(' ')
        .filter(|word| *word != "the")
        .any(|word| b.split(' ').any(|other| other == word))
}

/// `n` of `from`, without repetition.
fn some<T: Copy>(from: &[T], n: usize, dice: &mut Dice) -> Vec<T> {
    let mut all = from.to_vec();
    dice.shuffle(&mut all);
    all.truncate(n);
    all
}

/// Draws until the result is not taken. The vocabulary is far larger than a scene, so this ends.
fn fresh(make: impl Fn(&mut Dice) -> String, taken: impl Fn(&str) -> bool, dice: &mut Dice) -> String {
    loop {
        let candidate = make(dice);
        if !taken(&candidate) {
            return candidate;
        }
    }
}

/// One of some 7 000 first names.
pub fn person(dice: &mut Dice) -> String {
    [
        dice.pick(words::ONSETS),
        dice.pick(words::MIDDLES),
        dice.pick(words::ENDINGS),
    ]
    .concat()
}

/// One of some 4 000 towns.
pub fn town(dice: &mut Dice) -> String {
    [
        dice.pick(words::ONSETS),
        dice.pick(words::MIDDLES),
        dice.pick(words::TOWN_ENDINGS),
    ]
    .concat()
}

pub(super) fn thing(dice: &mut Dice) -> String {
    format!("the {} {}", dice.pick(words::ADJECTIVES), dice.pick(words::NOUNS))
}

fn value(relation: &Relation, split: Split, dice: &mut Dice) -> String {
    match relation.label {
        "job" => format!("a {}", dice.pick(words::JOBS)),
        "town" => split.draw(town, dice),
        "age" => format!("{} years", dice.between(10, 90)),
        "food" => dice.pick(words::FOODS).to_string(),
        "place" => dice.pick(words::PLACES).to_string(),
        "owner" => split.draw(person, dice),
        "price" => format!("{} crowns", dice.between(10, 99)),
        _ => dice.pick(words::MATERIALS).to_string(),
    }
}
