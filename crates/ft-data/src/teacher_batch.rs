//! A batch as a teacher with another tokenizer reads it.

use std::ops::Range;

use crate::{Batch, Sample, Span, Taught};

/// The samples of a batch as the tokens of a teacher that has another tokenizer: its rows hold the same sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherBatch {
    /// The teacher's tokens.
    pub batch: Batch,
    /// Pieces of text that both tokenizers cut out: indices into [`Batch::targets`] of the student and of the teacher, ascending.
    pub spans: Vec<[Range<usize>; 2]>,
}

impl TeacherBatch {
    /// Of sequences in rows; none where one of them has no teacher.
    pub(crate) fn of(rows: &[Vec<&Sample>], multiple: usize) -> Option<TeacherBatch> {
        let (mut teacher_rows, mut spans, mut before) = (Vec::new(), Vec::new(), [0, 0]);
        for row in rows {
            let mut teacher_row = Vec::new();
            for sample in row {
                let Taught {
                    sample: theirs,
                    spans: own,
                } = sample.teacher.as_deref()?;
                let moved = |range: &Range<u32>, by: usize| by + range.start as usize..by + range.end as usize;
                let spans_of = |span: &Span| [moved(&span.student, before[0]), moved(&span.teacher, before[1])];
                spans.extend(own.iter().map(spans_of));
                before = [before[0] + sample.target_tokens(), before[1] + theirs.target_tokens()];
                teacher_row.push(theirs);
            }
            teacher_rows.push(teacher_row);
        }
        let samples: Vec<&Sample> = teacher_rows.iter().flatten().copied().collect();
        (!samples.is_empty()).then(|| TeacherBatch {
            batch: Batch::laid_out(&samples, &teacher_rows, 0, multiple),
            spans,
        })
    }

    /// Of the examples `from..to` of `student`.
    pub(crate) fn part(&self, student: &Batch, from: usize, to: usize) -> TeacherBatch {
        let before = |batch: &Batch, end: usize| batch.sequence_of.iter().filter(|of| (**of as usize) < end).count();
        let [own, theirs] = [student, &self.batch].map(|batch| before(batch, from)..before(batch, to));
        let inside = self.spans.iter().filter(|[student, _]| own.contains(&student.start));
        let moved = |range: &Range<usize>, by: usize| range.start - by..range.end - by;
        TeacherBatch {
            batch: self.batch.part(from, to),
            spans: inside
                .map(|[student, teacher]| [moved(student, own.start), moved(teacher, theirs.start)])
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ids: &[u32], mask: &str) -> Sample {
        Sample::new(ids.to_vec(), mask.chars().map(|c| c == 'x').collect())
    }

    fn theirs<'a>(samples: &[&'a Sample]) -> Vec<&'a Sample> {
        samples
            .iter()
            .map(|sample| &sample.teacher.as_ref().unwrap().sample)
            .collect()
    }

    #[test]
    fn a_teachers_tokens_go_along() {
        let span = |student, teacher| Span { student, teacher };
        let taught = |ids: &[u32], mask, spans| Taught {
            sample: sample(ids, mask),
            spans,
        };
        let samples = [
            sample(&[5, 6, 7], ".xx").taught(taught(&[1, 2, 3, 4], ".xxx", vec![span(0..1, 0..2), span(1..2, 2..3)])),
            sample(&[8, 9], ".x").taught(taught(&[6, 7, 8], "..x", vec![span(0..1, 0..1)])),
            sample(&[3, 2, 4], ".xx").taught(taught(&[5, 6], ".x", vec![span(0..2, 0..1)])),
        ];
        let [a, b, c] = samples.each_ref();
        let whole = Batch::packed(&[vec![a, b], vec![c]], 0, 1);
        let teacher = whole.teacher.as_ref().unwrap();
        assert_eq!(teacher.batch, Batch::packed(&[theirs(&[a, b]), theirs(&[c])], 0, 1));
        assert_eq!(teacher.spans, [[0..1, 0..2], [1..2, 2..3], [2..3, 3..4], [3..5, 4..5]]);
        assert_eq!(Batch::new(&[a, b, c], 0, 1).teacher.unwrap().spans, teacher.spans);
        let [first, rest] = whole.halves().unwrap();
        assert_eq!(first, Batch::packed(&[vec![a, b]], 0, 1));
        let rest = rest.teacher.unwrap();
        assert_eq!((&rest.spans, rest.batch.targets), (&vec![[0..2, 0..1]], vec![6]));
        let plain = sample(&[5, 6], ".x");
        assert_eq!(Batch::new(&[a, &plain], 0, 1).teacher, None);
        assert_eq!(
            whole.with_sequences(&[plain.clone(), plain.clone(), plain]).teacher,
            None
        );
    }
}
