//! What can be said about a person or a thing, how it is told, and how it is asked.
//!
//! `{s}` is the subject, `{v}` the value. Every relation has several tellings, so that the same fact returns in other
//! words, and questions in both directions.

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    Person,
    Thing,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Relation {
    /// The label on a card: "Job: a baker."
    pub label: &'static str,
    pub about: About,
    /// Ends with the value.
    pub tell: &'static [&'static str],
    /// Ends with the subject.
    pub turn: &'static [&'static str],
    /// Asks for the value.
    pub ask: &'static [&'static str],
    /// Asks for the subject.
    pub ask_back: &'static [&'static str],
}

pub static JOB: Relation = Relation {
    label: "job",
    about: About::Person,
    tell: &["{s} is {v}.", "{s} works as {v}."],
    turn: &["the one who works as {v} is {s}."],
    ask: &["What does {s} work as?", "What is the work of {s}?"],
    ask_back: &["Who is {v}?", "Who works as {v}?"],
};

pub static TOWN: Relation = Relation {
    label: "town",
    about: About::Person,
    tell: &["{s} lives in {v}.", "the home of {s} is {v}."],
    turn: &["in {v} stands the house of {s}."],
    ask: &["Where does {s} live?", "Where is the home of {s}?"],
    ask_back: &["Who lives in {v}?"],
};

pub static AGE: Relation = Relation {
    label: "age",
    about: About::Person,
    tell: &["{s} is {v} old.", "the age of {s} is {v}."],
    turn: &["the one who is {v} old is {s}."],
    ask: &["How old is {s}?", "What is the age of {s}?"],
    ask_back: &["Who is {v} old?"],
};

pub static FOOD: Relation = Relation {
    label: "food",
    about: About::Person,
    tell: &["{s} likes {v}.", "nothing pleases {s} more than {v}."],
    turn: &["the one who likes {v} is {s}."],
    ask: &["What does {s} like?", "What pleases {s}?"],
    ask_back: &["Who likes {v}?"],
};

pub static PLACE: Relation = Relation {
    label: "place",
    about: About::Thing,
    tell: &["{s} is {v}.", "somebody left {s} {v}."],
    turn: &["{v} lies {s}."],
    ask: &["Where is {s}?", "Where can I find {s}?"],
    ask_back: &["What is {v}?", "What lies {v}?"],
};

pub static OWNER: Relation = Relation {
    label: "owner",
    about: About::Thing,
    tell: &["{s} belongs to {v}.", "the owner of {s} is {v}."],
    turn: &["{v} owns {s}."],
    ask: &["Who owns {s}?", "Who is the owner of {s}?"],
    ask_back: &["What does {v} own?", "What belongs to {v}?"],
};

pub static PRICE: Relation = Relation {
    label: "price",
    about: About::Thing,
    tell: &["{s} costs {v}.", "the price of {s} is {v}."],
    turn: &["for {v} you can buy {s}."],
    ask: &["How much is {s}?", "What is the price of {s}?"],
    ask_back: &["What costs {v}?", "What can I buy for {v}?"],
};

pub static MATERIAL: Relation = Relation {
    label: "material",
    about: About::Thing,
    tell: &["{s} is made of {v}.", "somebody made {s} of {v}."],
    turn: &["of {v} they made {s}."],
    ask: &["What is {s} made of?", "What did they make {s} of?"],
    ask_back: &["What is made of {v}?", "What did they make of {v}?"],
};

pub static OF_PEOPLE: &[&Relation] = &[&JOB, &TOWN, &AGE, &FOOD];
pub static OF_THINGS: &[&Relation] = &[&PLACE, &OWNER, &PRICE, &MATERIAL];
