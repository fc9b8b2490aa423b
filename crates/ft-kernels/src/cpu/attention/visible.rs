//! The mask as ranges of keys: what is hidden is never computed.
use super::Sizes;
use crate::attention::{First, Span};
use crate::cpu::flex::integers;
use burn::backend::Flex;
use std::ops::Range;

/// Which keys every query sees: the prefix and one range.
pub(super) struct Visible {
    span: Span,
    first: Option<Vec<i64>>,
    last: Option<Vec<i64>>,
    steps: usize,
    keys: usize,
}

impl Visible {
    pub(super) fn new(span: Span, first: First<Flex>, sizes: Sizes) -> Self {
        let (first, last) = match first {
            First::Start => (None, None),
            First::At(columns) => (Some(integers(columns)), None),
            First::Between(columns) => {
                let mut first = integers(columns);
                let last = first.split_off(first.len() / 2);
                (Some(first), Some(last))
            }
        };
        Self {
            span,
            first,
            last,
            steps: sizes.s,
            keys: sizes.t,
        }
    }

    pub(super) fn prefix(&self) -> usize {
        self.span.prefix
    }

    /// The keys after the prefix that query `i` of batch row `b` sees; empty if it sees none.
    pub(super) fn range(&self, b: usize, i: usize) -> Range<usize> {
        let Span { offset, window, prefix } = self.span;
        let from_window = window.map_or(0, |w| (i + offset + 1).saturating_sub(w));
        let from_first = self
            .first
            .as_ref()
            .map_or(0, |f| usize::try_from(f[b * self.steps + i]).unwrap_or(0));
        let end = match &self.last {
            None => offset + i + 1,
            Some(last) => usize::try_from(last[b * self.steps + i] + 1)
                .unwrap_or(0)
                .min(self.keys),
        };
        let start = from_window.max(from_first).min(end);
        prefix + start..prefix + end
    }

    /// The smallest range of keys that holds all that queries `rows` see.
    pub(super) fn block(&self, b: usize, rows: Range<usize>) -> Range<usize> {
        let ranges = rows.map(|i| self.range(b, i)).filter(|r| !r.is_empty());
        let hull = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
        let seen = ranges.reduce(hull);
        match (seen, self.prefix()) {
            (Some(seen), 0) => seen,
            (Some(seen), _) => 0..seen.end,
            (None, prefix) => 0..prefix,
        }
    }
}
