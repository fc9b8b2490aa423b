//! One training example: token ids and which of them are learned.

use std::ops::Range;

use crate::align::{self, Read, Taught};
use crate::stored::Stored;
use crate::tokenizer::Tokenizer;

/// Token ids with a loss mask. A token that is learned is predicted from those before it; the first has nothing before it, so it never
/// is. In a set that is large, both lie in the token cache, mapped into memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Token ids, without padding.
    pub ids: Stored<u32>,
    /// Where the maximal runs of target tokens begin and end, in order.
    pub(crate) learned: Stored<[u32; 2]>,
    /// What people thought of the answer.
    pub preference: Preference,
    /// What a head is to say of it.
    pub(crate) label: Label,
    /// The column at which the second of two texts begins; 0 where there is one text.
    pub second: usize,
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

/// What a head is to say, as the bits of numbers in f32.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Label {
    /// Nothing.
    #[default]
    None,
    /// Of the whole: the number of the class, a 0 or 1 for every class, or values.
    Whole(Stored<u32>),
    /// Of every token: the number of its class, -100 where none is learned.
    Tokens(Stored<u32>),
}

impl Sample {
    /// Joins ids and mask; the first token is never learned.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn new(ids: Vec<u32>, learn: Vec<bool>) -> Sample {
        assert_eq!(ids.len(), learn.len(), "one flag per token");
        let mut learned: Vec<[u32; 2]> = Vec::new();
        for at in (1..learn.len()).filter(|at| learn[*at]) {
            let at = at as u32;
            match learned.last_mut() {
                Some([_, end]) if *end == at => *end += 1,
                _ => learned.push([at, at + 1]),
            }
        }
        Sample::of(ids.into(), learned.into())
    }

    /// Ids and the runs of them that are learned.
    pub(crate) fn of(ids: Stored<u32>, learned: Stored<[u32; 2]>) -> Sample {
        Sample {
            ids,
            learned,
            preference: Preference::None,
            label: Label::None,
            second: 0,
            teacher: None,
        }
    }

    /// Token ids of which the first `prompt` are given and the others are learned.
    pub fn answered(ids: Vec<u32>, prompt: usize) -> Sample {
        let [start, end] = [prompt.max(1), ids.len()].map(|at| at as u32);
        let learned = if start < end { vec![[start, end]] } else { Vec::new() };
        Sample::of(ids.into(), learned.into())
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

    /// The same with what a head is to say of it: the number of the class, a 0 or 1 for every class, or values.
    pub fn labelled(self, label: &[f32]) -> Sample {
        Sample {
            label: Label::Whole(bits(label)),
            ..self
        }
    }

    /// The same with the number of the class of every token, [`NO_CLASS`](crate::NO_CLASS) where none is learned.
    ///
    /// # Panics
    /// Where there is not one for each token.
    pub fn tagged(self, classes: &[f32]) -> Sample {
        assert_eq!(classes.len(), self.len(), "one class per token");
        Sample {
            label: Label::Tokens(bits(classes)),
            ..self
        }
    }

    /// The same with a second text from this column on.
    pub fn with_second(self, second: usize) -> Sample {
        Sample { second, ..self }
    }

    /// What a head is to say, of the whole or of every token; nothing where there is nothing.
    pub fn label(&self) -> Vec<f32> {
        let bits = match &self.label {
            Label::None => return Vec::new(),
            Label::Whole(bits) | Label::Tokens(bits) => bits,
        };
        bits.iter().map(|bits| f32::from_bits(*bits)).collect()
    }

    /// Whether a head is to say something of it.
    pub fn is_labelled(&self) -> bool {
        self.label != Label::None
    }

    /// Whether a head is to say something of each of its tokens.
    pub fn is_tagged(&self) -> bool {
        matches!(self.label, Label::Tokens(_))
    }

    /// The answer that is worth having, by itself: the chosen one of a pair, none of an answer that was called bad or of
    /// what a head answers.
    pub fn wanted(&self) -> Option<Sample> {
        match self.preference {
            Preference::Rated(false) => None,
            _ if self.is_labelled() => None,
            _ => Some(Sample::of(self.ids.clone(), self.learned.clone())),
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

    /// Whether every sequence of it has something to learn, or a head has.
    pub(crate) fn teaches(&self) -> bool {
        self.is_labelled() || self.sequences().all(|sample| sample.target_tokens() > 0)
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
        self.learned.iter().map(|[start, end]| (end - start) as usize).sum()
    }

    /// The tokens before the first learned one: what generation starts from to be compared with [`Sample::answer`].
    pub fn prompt(&self) -> &[u32] {
        let end = self.learned.first().map_or(self.len(), |[start, _]| *start as usize);
        &self.ids[..end]
    }

    /// The first run of target tokens, stop token included.
    pub fn answer(&self) -> &[u32] {
        self.runs().next().map_or(&[], |run| &self.ids[run])
    }

    /// The maximal runs of target tokens, in order.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = Range<usize>> + '_ {
        self.learned.iter().map(|[start, end]| *start as usize..*end as usize)
    }

    /// For each token whether it is learned.
    pub fn learn(&self) -> Vec<bool> {
        let mut learn = vec![false; self.len()];
        self.runs().for_each(|run| learn[run].fill(true));
        learn
    }

    /// Keeps the first `max_length` tokens, of a rejected answer too; returns how many were cut off.
    pub(crate) fn truncate(&mut self, max_length: usize) -> usize {
        let cut = self.len().saturating_sub(max_length);
        self.ids.truncate(max_length);
        if let Label::Tokens(classes) = &mut self.label {
            classes.truncate(max_length);
        }
        self.cut_runs();
        match &mut self.preference {
            Preference::Over(rejected) => cut + rejected.truncate(max_length),
            _ => cut,
        }
    }

    /// Consecutive windows of at most `max_length` tokens. The first token of each window is context only.
    pub(crate) fn windows(&self, max_length: usize) -> Vec<Sample> {
        let learn = self.learn();
        let pieces = self.ids.chunks(max_length).zip(learn.chunks(max_length));
        pieces
            .map(|(ids, learn)| Sample::new(ids.to_vec(), learn.to_vec()))
            .collect()
    }

    /// Runs of target tokens end where the tokens do.
    fn cut_runs(&mut self) {
        let len = self.len() as u32;
        let kept = self.learned.iter().take_while(|[start, _]| *start < len).count();
        self.learned.truncate(kept);
        if self.learned.last().is_some_and(|[_, end]| *end > len) {
            self.learned.to_mut()[kept - 1][1] = len;
        }
    }
}

fn bits(numbers: &[f32]) -> Stored<u32> {
    numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>().into()
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
        assert_eq!(sample("xxx").learn(), [false, true, true]);
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
        let ids: Vec<u32> = windows.iter().flat_map(|w| w.ids.to_vec()).collect();
        assert_eq!(s.ids, ids);
    }
}
