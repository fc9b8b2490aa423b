//! The grammar: a little world of people and things, from which the corpus of the base model and the fine-tuning data
//! are written. Same seed, same bytes.
//!
//! ```text
//! words, relations ──> world::scene ──> story::document   the corpus: told, then told again in other words
//!                                  └──> lesson::lesson    the fine-tuning: passage, question, short answer
//!                                        └─> tasks::Task   four tasks, of which that is one
//! ```

mod dice;
mod lesson;
mod relations;
mod story;
mod tasks;
mod words;
mod world;

pub use dice::Dice;
pub use lesson::{Lesson, lesson};
pub use story::document;
pub use tasks::Task;
pub use world::Split;

#[cfg(test)]
mod tests;
