//! How rows are cut without cutting a span.
use super::SpanPair;
use std::ops::Range;

/// Consecutive rows of the student, the spans that lie in them, and the teacher's rows of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) rows: Range<usize>,
    pub(crate) teacher: Range<usize>,
    pub(crate) spans: Range<usize>,
}

/// Blocks of at most `most` rows of the student and of the teacher; a span that is longer has its own.
pub(crate) fn blocks(spans: &[SpanPair], rows: usize, most: [usize; 2]) -> Vec<Block> {
    let (mut blocks, mut start, mut next) = (Vec::new(), 0, 0);
    while start < rows {
        let (first, mut end) = (next, rows.min(start + most[0]));
        let from = spans.get(first).map_or(0, |span| span.teacher.start);
        while let Some(span) = spans.get(next).filter(|span| span.student.start < end) {
            if span.student.end <= end && span.teacher.end - from <= most[1] {
                next += 1;
                continue;
            }
            end = span.student.start;
            if end == start {
                end = span.student.end;
                next += 1;
            }
            break;
        }
        let to = if next > first {
            spans[next - 1].teacher.end
        } else {
            from
        };
        blocks.push(Block {
            rows: start..end,
            teacher: from..to,
            spans: first..next,
        });
        start = end;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(student: Range<usize>, teacher: Range<usize>) -> SpanPair {
        SpanPair { student, teacher }
    }

    #[test]
    fn no_span_is_cut_and_every_row_is_there_once() {
        let spans = [
            pair(0..2, 1..2),
            pair(2..3, 2..5),
            pair(5..9, 5..6),
            pair(9..10, 6..13),
            pair(11..12, 13..14),
        ];
        let block = |rows, teacher, spans| Block { rows, teacher, spans };
        assert_eq!(
            blocks(&spans, 14, [4, 5]),
            [
                block(0..4, 1..5, 0..2),
                block(4..5, 5..5, 2..2),
                block(5..9, 5..6, 2..3),
                block(9..10, 6..13, 3..4),
                block(10..14, 13..14, 4..5),
            ]
        );
        assert_eq!(blocks(&spans, 14, [20, 20]), [block(0..14, 1..14, 0..5)]);
        assert_eq!(
            blocks(&[], 3, [2, 2]),
            [block(0..2, 0..0, 0..0), block(2..3, 0..0, 0..0)]
        );
        assert!(blocks(&[], 0, [2, 2]).is_empty());
        for most in 1..15 {
            let blocks = blocks(&spans, 14, [most, most]);
            assert_eq!((blocks[0].rows.start, blocks.last().unwrap().rows.end), (0, 14));
            assert!(blocks.windows(2).all(|two| two[0].rows.end == two[1].rows.start));
            assert!(blocks.windows(2).all(|two| two[0].spans.end == two[1].spans.start));
            assert_eq!(blocks.last().unwrap().spans.end, spans.len());
        }
    }
}
