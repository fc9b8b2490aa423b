//! People, things and the facts about them.

use super::dice::Dice;
use super::relations::{self, About, Relation};
use super::words;

/// Which names and things may appear. The two halves share words but no name, no town and no thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Everything: the corpus of the base model.
    Both,
    /// Seen in fine-tuning.
    Train,
    /// Kept for the evaluation.
    HeldOut,
}

impl Half {
    /// One name in eight is held out, decided by the name alone (FNV-1a), so that no list has to be kept.
    fn holds(self, name: &str) -> bool {
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
        });
        let held_out = (hash >> 32) % 8 == 0;
        match self {
            Half::Both => true,
            Half::Train => !held_out,
            Half::HeldOut => held_out,
        }
    }

    fn draw(self, make: impl Fn(&mut Dice) -> String, dice: &mut Dice) -> String {
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
    /// The fact as a sentence, in one of its tellings.
    pub fn tell(&self, dice: &mut Dice) -> String {
        let turned = dice.chance(30);
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

/// `subjects` people and as many things, with one or two facts each. Within a scene every question has one answer: no two subjects
/// share a value of the same relation.
pub fn scene(subjects: usize, half: Half, dice: &mut Dice) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    for about in [About::Person, About::Thing] {
        let (make, relations): (fn(&mut Dice) -> String, _) = match about {
            About::Person => (person, relations::OF_PEOPLE),
            About::Thing => (thing, relations::OF_THINGS),
        };
        let relations = some(relations, dice.between(1, 2), dice);
        for _ in 0..subjects {
            let subject = fresh(
                |dice| half.draw(make, dice),
                |s| facts.iter().any(|f| alike(&f.subject, s)),
                dice,
            );
            for relation in &relations {
                let taken = |v: &str| facts.iter().any(|f| f.relation == *relation && f.value == v);
                let value = fresh(|dice| value(relation, half, dice), taken, dice);
                facts.push(Fact {
                    subject: subject.clone(),
                    relation,
                    value,
                });
            }
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

pub fn person(dice: &mut Dice) -> String {
    [dice.pick(words::NAME_STARTS), dice.pick(words::NAME_ENDS)].concat()
}

pub fn town(dice: &mut Dice) -> String {
    [dice.pick(words::TOWN_STARTS), dice.pick(words::TOWN_ENDS)].concat()
}

fn thing(dice: &mut Dice) -> String {
    format!("the {} {}", dice.pick(words::ADJECTIVES), dice.pick(words::NOUNS))
}

fn value(relation: &Relation, half: Half, dice: &mut Dice) -> String {
    match relation.label {
        "job" => format!("a {}", dice.pick(words::JOBS)),
        "town" => half.draw(town, dice),
        "age" => format!("{} years", dice.between(10, 90)),
        "food" => dice.pick(words::FOODS).to_string(),
        "place" => dice.pick(words::PLACES).to_string(),
        "owner" => half.draw(person, dice),
        "price" => format!("{} crowns", dice.between(10, 99)),
        _ => dice.pick(words::MATERIALS).to_string(),
    }
}
