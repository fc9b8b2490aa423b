//! Four tasks over the same little world, to be learned together or one after the other.
//!
//! ```text
//! facts        a passage, a question, the answer in it        the lessons of the quickstart
//! prices       two things with their prices                   what they cost together
//! comparisons  two people with their ages                     who is older, or younger
//! translation  a sentence about a thing                       the same in a second made-up language
//! ```

use super::dice::Dice;
use super::lesson::{Lesson, lesson};
use super::words;
use super::world::{Split, capitalized, person, thing};

/// One of the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Facts,
    Prices,
    Comparisons,
    Translation,
}

impl Task {
    /// All of them.
    pub const ALL: [Task; 4] = [Task::Facts, Task::Prices, Task::Comparisons, Task::Translation];

    /// Its name: of the table `[[task]]` and of its files.
    pub fn name(self) -> &'static str {
        match self {
            Task::Facts => "facts",
            Task::Prices => "prices",
            Task::Comparisons => "comparisons",
            Task::Translation => "translation",
        }
    }

    /// A lesson about names and things of this half.
    pub fn lesson(self, split: Split, dice: &mut Dice) -> Lesson {
        match self {
            Task::Facts => lesson(split, dice),
            Task::Prices => prices(split, dice),
            Task::Comparisons => comparison(split, dice),
            Task::Translation => translation(split, dice),
        }
    }
}

fn asked(passage: &str, question: &str, answer: &str) -> Lesson {
    Lesson {
        prompt: format!("{passage}\nQuestion: {question}\nAnswer:"),
        completion: format!(" {answer}"),
    }
}

/// Two that are not the same.
fn two(make: fn(&mut Dice) -> String, split: Split, dice: &mut Dice) -> [String; 2] {
    let first = split.draw(make, dice);
    loop {
        let second = split.draw(make, dice);
        if second != first {
            return [first, second];
        }
    }
}

fn prices(split: Split, dice: &mut Dice) -> Lesson {
    let [a, b] = two(thing, split, dice);
    // Tens and one unit: sums without a carry, which a small model can learn.
    let (x, y) = (10 * dice.between(1, 4), dice.between(1, 4) * 10 + dice.below(10));
    let passage = format!(
        "{} costs {x} crowns. {} costs {y} crowns.",
        capitalized(&a),
        capitalized(&b)
    );
    asked(
        &passage,
        &format!("How much are {a} and {b} together?"),
        &format!("{} crowns", x + y),
    )
}

fn comparison(split: Split, dice: &mut Dice) -> Lesson {
    let [a, b] = two(person, split, dice);
    let x = dice.between(10, 89);
    // Never the same age.
    let y = 10 + (x - 10 + dice.between(1, 79)) % 80;
    let older = dice.chance(50);
    let word = if older { "older" } else { "younger" };
    let answer = if (x > y) == older { &a } else { &b };
    let passage = format!("{a} is {x} years old. {b} is {y} years old.");
    asked(&passage, &format!("Who is {word}, {a} or {b}?"), answer)
}

fn translation(split: Split, dice: &mut Dice) -> Lesson {
    let thing = split.draw(thing, dice);
    let material = dice.pick(words::MATERIALS);
    let (adjective, noun) = thing.trim_start_matches("the ").split_once(' ').unwrap_or(("", &thing));
    let sentence = format!("{} is made of {material}.", capitalized(&thing));
    // The verb comes last, and adjectives stand behind.
    let translated = format!("{} {} {} tam.", foreign(noun), foreign(adjective), foreign(material));
    Lesson {
        prompt: format!("{sentence}\nIn Orvic:"),
        completion: format!(" {}", capitalized(&translated)),
    }
}

/// The word of the second language: two syllables that follow from the first and the last two letters.
fn foreign(word: &str) -> String {
    const FIRST: [&str; 8] = ["bo", "ka", "mi", "nu", "re", "sa", "ti", "vo"];
    const LAST: [&str; 8] = ["lan", "der", "mos", "rik", "sun", "tep", "vil", "zar"];
    let bytes = word.as_bytes();
    let sum = |some: &[u8]| some.iter().map(|b| usize::from(*b)).sum::<usize>();
    let (head, tail) = (bytes.len().min(2), bytes.len().saturating_sub(2));
    [FIRST[sum(&bytes[..head]) % 8], LAST[sum(&bytes[tail..]) % 8]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lessons(task: Task, split: Split) -> Vec<Lesson> {
        let mut dice = Dice::new(3);
        (0..300).map(|_| task.lesson(split, &mut dice)).collect()
    }

    fn numbers(text: &str) -> Vec<usize> {
        let words = text.split(|c: char| !c.is_ascii_digit());
        words.filter_map(|word| word.parse().ok()).collect()
    }

    #[test]
    fn answers_are_right() {
        for lesson in lessons(Task::Prices, Split::Train) {
            let [x, y] = numbers(&lesson.prompt)[..] else {
                panic!("{lesson:?}")
            };
            assert_eq!(numbers(&lesson.completion), [x + y], "{lesson:?}");
        }
        for lesson in lessons(Task::Comparisons, Split::HeldOut) {
            let [x, y] = numbers(&lesson.prompt)[..] else {
                panic!("{lesson:?}")
            };
            assert_ne!(x, y);
            let names: Vec<&str> = lesson.prompt.split(". ").filter_map(|s| s.split(' ').next()).collect();
            let first = (x > y) == lesson.prompt.contains("older");
            assert_eq!(lesson.completion.trim(), names[usize::from(!first)], "{lesson:?}");
        }
    }

    #[test]
    fn a_word_is_always_translated_alike_and_names_differ_between_the_halves() {
        let translated = |split| -> Vec<(String, String)> {
            let lessons = lessons(Task::Translation, split).into_iter();
            lessons.map(|lesson| (lesson.prompt, lesson.completion)).collect()
        };
        let (train, held_out) = (translated(Split::Train), translated(Split::HeldOut));
        let thing = |prompt: &str| prompt.split(" is made").next().unwrap().to_owned();
        let known: Vec<String> = train.iter().map(|(prompt, _)| thing(prompt)).collect();
        assert!(held_out.iter().all(|(prompt, _)| !known.contains(&thing(prompt))));
        for (prompt, answer) in &train {
            let again = train.iter().find(|(other, _)| other == prompt).unwrap();
            assert_eq!(&again.1, answer);
        }
    }
}
