//! One training example: token ids and which of them are learned.

use std::ops::Range;

use crate::align::{self, Read, Taught};
use crate::tokenizer::Tokenizer;

/// Token ids with a loss mask. `learn[i]` says that `ids[i]` is a target, predicted from `ids[..i]`; the first token has nothing
/// before it, so `learn[0]` is always false.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Token ids, without padding.
    pub ids: Vec<u32>,
    /// As long as `ids`.
    pub learn: Vec<bool>,
    /// What people thought of the answer.
    pub preference: Preference,
    /// The same example as the tokens of a teacher with another tokenizer, where there is one.
    pub teacher: Option<Box<Taught>>,
}

/// What people thought of a sample's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Preference {
    /// Nothing is known.
    #[default]
    None,
    /// They preferred it to the answer of this sample, which has the same prompt.
    Over(Box<Sample>),
    /// They called it good (true) or bad.
    Rated(bool),
}

impl Sample {
    /// Joins ids and mask; the first token is never learned.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn new(ids: Vec<u32>, mut learn: Vec<bool>) -> Sample {
        assert_eq!(ids.len(), learn.len(), "one flag per token");
        if let Some(first) = learn.first_mut() {
            *first = false;
        }
        Sample {
            ids,
            learn,
            preference: Preference::None,
            teacher: None,
        }
    }

    /// Token ids of which the first `prompt` are given and the others are learned.
    pub fn answered(ids: Vec<u32>, prompt: usize) -> Sample {
        let learn = (0..ids.len()).map(|at| at >= prompt).collect();
        Sample::new(ids, learn)
    }

    /// The same, preferred to `rejected`.
    pub fn over(self, rejected: Sample) -> Sample {
        Sample {
            preference: Preference::Over(Box::new(rejected)),
            ..self
        }
    }

    /// The same, with a teacher's tokens for it.
    pub fn taught(self, teacher: Taught) -> Sample {
        Sample {
            teacher: Some(Box::new(teacher)),
            ..self
        }
    }

    /// Finds the spans of text that both tokenizers cut out, in at most `max_length` tokens of the teacher.
    pub(crate) fn align(&mut self, [own, teacher]: [&Tokenizer; 2], max_length: usize) {
        let Some(mut taught) = self.teacher.take() else { return };
        taught.sample.truncate(max_length);
        let student = Read {
            sample: self,
            tokenizer: own,
        };
        let theirs = Read {
            sample: &taught.sample,
            tokenizer: teacher,
        };
        taught.spans = align::spans(student, theirs);
        self.teacher = Some(taught);
    }

    /// Target tokens that lie in spans of text which the teacher's tokenizer cuts out too.
    pub fn aligned_tokens(&self) -> usize {
        self.teacher.as_ref().map_or(0, |taught| align::covered(&taught.spans))
    }

    /// The same, called good or bad.
    pub fn rated(self, good: bool) -> Sample {
        Sample {
            preference: Preference::Rated(good),
            ..self
        }
    }

    /// The answer that is worth having, by itself: the chosen one of a pair, none of an answer that was called bad.
    pub fn wanted(&self) -> Option<Sample> {
        match self.preference {
            Preference::Rated(false) => None,
            _ => Some(Sample::new(self.ids.clone(), self.learn.clone())),
        }
    }

    /// The sample that this one is preferred to.
    pub fn rejected(&self) -> Option<&Sample> {
        match &self.preference {
            Preference::Over(rejected) => Some(rejected),
            _ => None,
        }
    }

    /// The sequences of the sample: itself, and the rejected one behind it.
    pub fn sequences(&self) -> impl Iterator<Item = &Sample> {
        std::iter::once(self).chain(self.rejected())
    }

    /// Whether every sequence of it has something to learn.
    pub(crate) fn teaches(&self) -> bool {
        self.sequences().all(|sample| sample.target_tokens() > 0)
    }

    /// Whether it is a pair of the same answer twice.
    pub(crate) fn is_undecided(&self) -> bool {
        self.rejected().is_some_and(|rejected| rejected.ids == self.ids)
    }

    /// Rows that it takes in a batch.
    pub fn rows(&self) -> usize {
        self.sequences().count()
    }

    /// Tokens of its longest sequence.
    pub fn width(&self) -> usize {
        self.sequences().map(Sample::len).max().unwrap_or(0)
    }

    /// Tokens of all its sequences.
    pub fn tokens(&self) -> usize {
        self.sequences().map(Sample::len).sum()
    }

    /// Tokens in the sample.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True when there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Tokens that the loss covers.
    pub fn target_tokens(&self) -> usize {
        self.learn.iter().filter(|&&l| l).count()
    }

    /// The tokens before the first learned one: what generation starts from to be compared with [`Sample::answer`].
    pub fn prompt(&self) -> &[u32] {
        let end = self.learn.iter().position(|&l| l).unwrap_or(self.len());
        &self.ids[..end]
    }

    /// The first run of learned tokens, stop token included.
    pub fn answer(&self) -> &[u32] {
        self.runs().next().map_or(&[], |run| &self.ids[run])
    }

    /// The maximal runs of learned tokens, in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at + self.learn[at..].iter().position(|&l| l)?;
            at = start + self.learn[start..].iter().take_while(|&&l| l).count();
            Some(start..at)
        })
    }

    /// SavedActivations the first `max_length` tokens, of a rejected answer too; returns how many were cut off.
    pub(crate) fn truncate(&mut self, max_length: usize) -> usize {
        let cut = self.len().saturating_sub(max_length);
        self.ids.truncate(max_length);
        self.learn.truncate(max_length);
        match &mut self.preference {
            Preference::Over(rejected) => cut + rejected.truncate(max_length),
            _ => cut,
        }
    }

    /// Consecutive windows of at most `max_length` tokens. The first token of each window is context only.
    pub(crate) fn windows(&self, max_length: usize) -> Vec<Sample> {
        let pieces = self.ids.chunks(max_length).zip(self.learn.chunks(max_length));
        pieces
            .map(|(ids, learn)| Sample::new(ids.to_vec(), learn.to_vec()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mask: &str) -> Sample {
        Sample::new(
            (0..mask.len() as u32).collect(),
            mask.chars().map(|c| c == 'x').collect(),
        )
    }

    #[test]
    fn the_first_token_is_never_learned() {
        assert_eq!(sample("xxx").learn, [false, true, true]);
        assert_eq!(sample("").target_tokens(), 0);
    }

    #[test]
    fn prompt_answer_and_runs() {
        let s = sample("..xx.x.");
        assert_eq!(s.prompt(), [0, 1]);
        assert_eq!(s.answer(), [2, 3]);
        assert_eq!(s.runs().collect::<Vec<_>>(), [2..4, 5..6]);
        assert_eq!(sample("...").runs().count(), 0);
        assert_eq!(sample("...").prompt().len(), 3);
        assert_eq!(sample("...").answer(), [0u32; 0]);
    }

    #[test]
    fn windows_cover_all_tokens_once() {
        let s = sample(".xxxxxx");
        let windows = s.windows(3);
        assert_eq!(windows.iter().map(Sample::len).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(windows.iter().map(Sample::target_tokens).collect::<Vec<_>>(), [2, 2, 0]);
        let ids: Vec<u32> = windows.into_iter().flat_map(|w| w.ids).collect();
        assert_eq!(ids, s.ids);
    }
}
