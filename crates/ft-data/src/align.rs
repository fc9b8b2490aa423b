//! One example as the tokens of two tokenizers: which of the one stand for the same text as which of the other.
//!
//! ```text
//! student    |Zürich| is|  a |ci|ty|.|      spans: the smallest pieces of text that both cut out,
//! teacher    |Zü|rich| is| a |city|.|       Zürich, is, a, city, .
//! ```
//!
//! As in TRL's GOLD (`trl/experimental/gold`, 1.16): bytes are walked on both sides, and a span ends where both have a boundary.

use std::ops::Range;

use crate::sample::Sample;
use crate::tokenizer::Tokenizer;

/// A sample as the tokens of a teacher that has another tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taught {
    /// The teacher's tokens, and which of them are targets.
    pub sample: Sample,
    /// The spans of the learned text, in order.
    pub spans: Vec<Span>,
}

/// A piece of learned text: by number among the target tokens of either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The student's.
    pub student: Range<u32>,
    /// The teacher's.
    pub teacher: Range<u32>,
}

/// Most tokens of a side of a span: the distribution over a longer one is multiplied by so many probabilities that it says nothing.
const MOST: usize = 32;

/// A sample and the tokenizer that made it.
#[derive(Clone, Copy)]
pub(crate) struct Read<'a> {
    pub sample: &'a Sample,
    pub tokenizer: &'a Tokenizer,
}

/// The spans of all runs of target tokens; none where both sides do not have equally many runs.
pub(crate) fn spans(student: Read, teacher: Read) -> Vec<Span> {
    let [own, theirs] = [student, teacher].map(|side| side.sample.runs().collect::<Vec<_>>());
    if own.len() != theirs.len() {
        return Vec::new();
    }
    let mut before = [0, 0];
    let mut all = Vec::new();
    for (own, theirs) in own.into_iter().zip(theirs) {
        let lengths = [own.len() as u32, theirs.len() as u32];
        let candidates = student.runs(own, before[0]).into_iter().flat_map(|own| {
            let theirs = teacher.runs(theirs.clone(), before[1]);
            theirs.into_iter().map(move |theirs| own.spans(&theirs))
        });
        // The first of equals.
        let best = candidates.reduce(|best, other| if covered(&other) > covered(&best) { other } else { best });
        all.extend(best.unwrap_or_default());
        before = [before[0] + lengths[0], before[1] + lengths[1]];
    }
    all
}

/// Target tokens of the student in spans.
pub(crate) fn covered(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.student.len()).sum()
}

/// A run of target tokens as text.
#[derive(Clone)]
struct Run {
    text: Vec<u8>,
    /// Where each token ends in it.
    ends: Vec<usize>,
    /// Tokens at the front that are not learned.
    given: usize,
    /// Target tokens before the run.
    before: u32,
    /// A special token, which is no text, ends it.
    stops: bool,
}

impl Read<'_> {
    /// The run, and where its text may begin with the first token of the sample, which is never learned, the run with that.
    fn runs(self, run: Range<usize>, before: u32) -> Vec<Run> {
        let first = self.sample.ids.first();
        let opens = run.start == 1 && first.is_some_and(|id| !self.tokenizer.is_special(*id));
        let given = if opens { vec![0, 1] } else { vec![0] };
        given
            .into_iter()
            .map(|given| self.run(run.clone(), given, before))
            .collect()
    }

    fn run(self, run: Range<usize>, given: usize, before: u32) -> Run {
        let mut ids = &self.sample.ids[run.start - given..run.end];
        let stops = ids.last().is_some_and(|id| self.tokenizer.is_special(*id));
        if stops {
            ids = &ids[..ids.len() - 1];
        }
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        for id in ids {
            text.extend(self.tokenizer.bytes_of(*id));
            ends.push(text.len());
        }
        Run {
            text,
            ends,
            given,
            before,
            stops,
        }
    }
}

impl Run {
    fn spans(&self, teacher: &Run) -> Vec<Span> {
        let [own, theirs] = from_common_text(without_marker([self.clone(), teacher.clone()]));
        let (mut spans, mut start, mut at) = (Vec::new(), [0, 0], [0, 0]);
        while at[0] < own.ends.len() && at[1] < theirs.ends.len() {
            let ends = [own.ends[at[0]], theirs.ends[at[1]]];
            at = [
                at[0] + usize::from(ends[0] <= ends[1]),
                at[1] + usize::from(ends[1] <= ends[0]),
            ];
            if ends[0] != ends[1] {
                continue;
            }
            let [one, other] = [own.text(start[0]..at[0]), theirs.text(start[1]..at[1])];
            if one != other {
                // One side changes the text: what follows stands elsewhere.
                return spans;
            }
            spans.extend(own.span(&theirs, [start[0]..at[0], start[1]..at[1]]));
            start = at;
        }
        let all = start == [own.ends.len(), theirs.ends.len()];
        if all && own.stops && theirs.stops {
            // Both say that the answer ends here.
            spans.extend(own.span(&theirs, [start[0]..start[0] + 1, start[1]..start[1] + 1]));
        }
        spans
    }

    fn text(&self, tokens: Range<usize>) -> &[u8] {
        let start = tokens.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[tokens.end - 1]]
    }

    /// These tokens of both sides as a span, where all are learned and few enough.
    fn span(&self, teacher: &Run, [own, theirs]: [Range<usize>; 2]) -> Option<Span> {
        let short = own.len() <= MOST && theirs.len() <= MOST;
        Some(Span {
            student: self.numbers(own)?,
            teacher: teacher.numbers(theirs)?,
        })
        .filter(|_| short)
    }

    /// By number among the sample's target tokens.
    fn numbers(&self, tokens: Range<usize>) -> Option<Range<u32>> {
        let start = tokens.start.checked_sub(self.given)? as u32 + self.before;
        Some(start..start + tokens.len() as u32)
    }

    fn leading_spaces(&self) -> usize {
        self.text.iter().take_while(|byte| **byte == b' ').count()
    }
}

/// Both runs, without the space that some tokenizers put before a text where only one does.
fn without_marker(mut runs: [Run; 2]) -> [Run; 2] {
    let spaces = runs.each_ref().map(Run::leading_spaces);
    let longer = match () {
        () if spaces[0] == spaces[1] + 1 => &mut runs[0],
        () if spaces[1] == spaces[0] + 1 => &mut runs[1],
        () => return runs,
    };
    longer.text.remove(0);
    longer.ends.iter_mut().for_each(|end| *end = end.saturating_sub(1));
    runs
}

/// Both runs, without what only one of them says before the text of the other, as an empty thought that its chat template writes.
fn from_common_text(mut runs: [Run; 2]) -> [Run; 2] {
    let [own, theirs] = &mut runs;
    let (longer, shorter) = match own.text.len() > theirs.text.len() {
        true => (own, theirs),
        false => (theirs, own),
    };
    let more = longer.text.len() - shorter.text.len();
    let last = longer.ends.iter().rposition(|end| *end == more);
    if let Some(last) = last.filter(|_| more > 0 && longer.text.ends_with(&shorter.text)) {
        longer.text.drain(..more);
        longer.ends.drain(..=last);
        longer.ends.iter_mut().for_each(|end| *end -= more);
        longer.before += (last + 1 - longer.given) as u32;
        longer.given = 0;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tokenizer(name: &str) -> Tokenizer {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizers/");
        Tokenizer::from_dir(&Path::new(folder).join(name)).unwrap()
    }

    fn answered(tokenizer: &Tokenizer, prompt: &str, answer: &str, stop: bool) -> Sample {
        let prompt = tokenizer.opened(tokenizer.encode(prompt, false).unwrap());
        let mut ids = [prompt.clone(), tokenizer.encode(answer, false).unwrap()].concat();
        ids.extend(tokenizer.eos_id().filter(|_| stop));
        Sample::answered(ids, prompt.len())
    }

    /// The texts of the spans, on either side.
    fn texts(sample: &Sample, tokenizer: &Tokenizer, spans: &[Span], side: fn(&Span) -> &Range<u32>) -> Vec<Vec<u8>> {
        let targets: Vec<u32> = sample.runs().flat_map(|run| sample.ids[run].to_vec()).collect();
        let text = |span: &Span| {
            let range = side(span);
            let ids = &targets[range.start as usize..range.end as usize];
            ids.iter().flat_map(|id| tokenizer.bytes_of(*id)).collect()
        };
        spans.iter().map(text).collect()
    }

    #[test]
    fn spans_are_the_same_text_on_both_sides_and_cover_all_of_it() {
        let [one, other] = ["chatml", "llama"].map(tokenizer);
        let answer = "The cook's naïve café serves soup — 1999 \u{1f35c}, in Zürich.";
        let own = answered(&one, "Question", answer, true);
        let theirs = answered(&other, "A question", answer, true);
        for (a, b, [at, bt]) in [(&own, &theirs, [&one, &other]), (&theirs, &own, [&other, &one])] {
            let read = |sample, tokenizer| Read { sample, tokenizer };
            let spans = spans(read(a, at), read(b, bt));
            assert_eq!(covered(&spans), a.target_tokens());
            let [mut left, mut right] = [
                texts(a, at, &spans, |span| &span.student),
                texts(b, bt, &spans, |span| &span.teacher),
            ];
            assert_eq!(
                [left.pop().is_some(), right.pop().is_some()],
                [true, true],
                "the stop tokens"
            );
            let trim = |texts: &mut Vec<Vec<u8>>| texts[0] = texts[0].trim_ascii_start().into();
            trim(&mut left);
            trim(&mut right);
            assert_eq!(left, right);
            assert_eq!(left.concat(), answer.as_bytes());
            assert!(spans.len() > 5, "{left:?}");
        }
    }

    #[test]
    fn a_tokenizer_beside_itself_has_a_span_for_every_token() {
        let tokenizer = tokenizer("llama");
        let sample = answered(&tokenizer, "Question", "She reads the map.", true);
        let read = Read {
            sample: &sample,
            tokenizer: &tokenizer,
        };
        let spans = spans(read, read);
        assert_eq!(spans.len(), sample.target_tokens());
        assert!(
            spans
                .iter()
                .all(|span| span.student.len() == 1 && span.student == span.teacher)
        );
    }

    #[test]
    fn text_without_a_start_token_is_matched_with_text_that_has_one() {
        let [one, other] = ["chatml", "llama"].map(tokenizer);
        let text = "The cook tastes the soup.";
        let whole = |tokenizer: &Tokenizer| {
            let ids = tokenizer.encode(text, true).unwrap();
            let learn = vec![true; ids.len()];
            Sample::new(ids, learn)
        };
        let (own, theirs) = (whole(&one), whole(&other));
        assert!(!one.is_special(own.ids[0]) && other.is_special(theirs.ids[0]));
        let read = |sample, tokenizer| Read { sample, tokenizer };
        let spans = spans(read(&own, &one), read(&theirs, &other));
        let left = texts(&own, &one, &spans, |span| &span.student);
        assert_eq!(left, texts(&theirs, &other, &spans, |span| &span.teacher));
        assert!(covered(&spans) * 10 > own.target_tokens() * 7, "{left:?}");
    }

    #[test]
    fn what_differs_is_in_no_span() {
        let [one, other] = ["chatml", "llama"].map(tokenizer);
        let own = answered(&one, "Q", "The cook tastes the soup.", true);
        let read = |sample, tokenizer| Read { sample, tokenizer };
        let theirs = answered(&other, "Q", "The cook carries the soup.", true);
        let part = spans(read(&own, &one), read(&theirs, &other));
        let left = texts(&own, &one, &part, |span| &span.student);
        assert!(b"The cook".starts_with(&left.concat()) && !left.is_empty(), "{left:?}");
        // Cut short: no stop, and nothing behind the cut.
        let cut = answered(&other, "Q", "The cook", false);
        let part = spans(read(&own, &one), read(&cut, &other));
        assert_eq!(texts(&own, &one, &part, |span| &span.student).concat(), b"The cook");
        // More before the same text.
        let more = answered(&one, "Q", "Well.\n\nThe cook tastes the soup.", true);
        let less = answered(&other, "Q", "The cook tastes the soup.", true);
        let part = spans(read(&more, &one), read(&less, &other));
        assert_eq!(
            texts(&more, &one, &part, |span| &span.student).concat(),
            b"The cook tastes the soup.<|im_end|>"
        );
        assert_eq!(
            covered(&spans(read(&less, &other), read(&more, &one))),
            less.target_tokens()
        );
        let two = Sample::new(vec![1, 5, 6, 7], vec![false, true, false, true]);
        assert!(spans(read(&own, &one), read(&two, &other)).is_empty());
    }
}
