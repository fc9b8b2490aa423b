use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_kernels::Mask;

use crate::model::Model;

/// How the rows of a batch lie in their columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every row starts at column 0; padding, if any, is at the end and is hidden by the causal mask alone.
    Right,
    /// Row r has `pad[r]` columns of padding before its first token (generation over prompts of several lengths).
    Left(Vec<usize>),
    /// Row r holds documents that start at the columns `starts[r]`, ascending from 0: none sees another, and positions start again at
    /// each. Padding, if any, is behind the last one. Without a cache.
    Packed(Vec<Vec<usize>>),
    /// Row r of an encoder holds texts at these columns, each seen as a whole and alone: that of the first token, that of the second of
    /// two texts (or the end), and the end. The rest is padding.
    Texts(Vec<Vec<[usize; 3]>>),
    /// Row r is one token at position `at[r]` of a sequence that has its own cache, virtual tokens included.
    Tokens(Vec<usize>),
}

impl Model {
    /// How rows lie whose sequences are at these columns: that of the first token, of the second of two texts (or the end), and the end.
    pub fn rows(&self, layout: Vec<Vec<[usize; 3]>>) -> Rows {
        if self.config().encoder.is_some() {
            return Rows::Texts(layout);
        }
        match layout.iter().all(|row| row.len() == 1) {
            true => Rows::Right,
            false => Rows::Packed(
                layout
                    .iter()
                    .map(|row| row.iter().map(|[start, ..]| *start).collect())
                    .collect(),
            ),
        }
    }
}

impl Rows {
    /// Documents that start at these columns of each row; rows of one each where there are none.
    pub fn packed(starts: Option<Vec<Vec<usize>>>) -> Self {
        starts.map_or(Rows::Right, Rows::Packed)
    }

    /// Whether the virtual tokens of the adapter in the slots come in with a call that starts at column `offset`.
    pub(crate) fn take_virtual_tokens(&self, offset: usize) -> bool {
        offset == 0 && !matches!(self, Rows::Tokens(_))
    }

    /// Position of each column of a call that starts at column `offset`, behind a prefix: one row of `seq` for all, or one
    /// per batch row. Padding columns get that of the first column.
    pub(crate) fn positions(&self, prefix: usize, offset: usize, seq: usize) -> Vec<Vec<usize>> {
        let columns = offset..offset + seq;
        match self {
            Rows::Right => vec![columns.map(|column| prefix + column).collect()],
            Rows::Left(pads) => pads
                .iter()
                .map(|pad| {
                    columns
                        .clone()
                        .map(|column| prefix + column.saturating_sub(*pad))
                        .collect()
                })
                .collect(),
            Rows::Texts(rows) => rows
                .iter()
                .map(|texts| {
                    let from = texts.iter().flat_map(|[start, _, end]| 0..end - start);
                    from.chain(std::iter::repeat(0)).take(seq).collect()
                })
                .collect(),
            Rows::Tokens(at) => at.iter().map(|position| vec![*position]).collect(),
            Rows::Packed(rows) => rows
                .iter()
                .map(|starts| {
                    let own = documents(starts, seq).enumerate();
                    own.map(|(column, (_, start))| prefix + column - start).collect()
                })
                .collect(),
        }
    }

    /// What each query may see.
    pub(crate) fn mask(
        &self,
        prefix: usize,
        offset: usize,
        seq: usize,
        window: Option<usize>,
        device: &Device,
    ) -> Mask {
        let first = |rows: usize, columns: Vec<i32>| {
            Some(Tensor::<2, Int>::from_data(
                TensorData::new(columns, [rows, seq]),
                device,
            ))
        };
        let (first, window) = match self {
            Rows::Right | Rows::Tokens(_) | Rows::Texts(_) => (None, window),
            Rows::Left(pads) if pads.iter().all(|pad| *pad == 0) => (None, window),
            Rows::Left(pads) => {
                let columns = pads.iter().flat_map(|pad| std::iter::repeat_n(*pad as i32, seq));
                (first(pads.len(), columns.collect()), window)
            }
            Rows::Packed(rows) => {
                assert_eq!(offset, 0, "packed rows have no cache");
                let columns = rows.iter().flat_map(|starts| documents(starts, seq));
                let columns = columns.map(|(_, start)| start as i32).collect();
                // No document is longer: the window hides nothing more, and says how far back keys can lie.
                let longest = longest(rows, seq);
                let window = window.map_or(longest, |window| window.min(longest));
                (first(rows.len(), columns), Some(window))
            }
        };
        Mask {
            offset,
            window,
            first,
            last: None,
            prefix,
        }
    }

    /// The first column of each column's text, counted from the first one of the call, where a layer that sees `reach` columns beside its state
    /// must be told: `[rows, seq]`.
    pub(crate) fn documents(&self, offset: usize, seq: usize, reach: usize, device: &Device) -> Option<Tensor<2, Int>> {
        let columns: Vec<i32> = match self {
            Rows::Right | Rows::Tokens(_) | Rows::Texts(_) => return None,
            Rows::Left(pads) if pads.iter().all(|pad| *pad == 0 || pad + reach <= offset) => return None,
            Rows::Left(pads) => {
                let first = |pad: &usize| *pad as i32 - offset as i32;
                pads.iter()
                    .flat_map(|pad| std::iter::repeat_n(first(pad), seq))
                    .collect()
            }
            Rows::Packed(rows) => {
                let columns = rows.iter().flat_map(|starts| documents(starts, seq));
                columns.map(|(_, start)| start as i32).collect()
            }
        };
        let rows = columns.len() / seq.max(1);
        Some(Tensor::from_data(TensorData::new(columns, [rows, seq]), device))
    }

    /// Every token sees its whole text, or what is no further away than `reach` of it, and padding itself: for an encoder.
    pub(crate) fn whole_texts(&self, batch: usize, seq: usize, reach: Option<usize>, device: &Device) -> Mask {
        let columns = |of: [Vec<i32>; 2]| {
            of.map(|values| {
                Some(Tensor::<2, Int>::from_data(
                    TensorData::new(values, [batch, seq]),
                    device,
                ))
            })
        };
        let mut ends = [Vec::with_capacity(batch * seq), Vec::with_capacity(batch * seq)];
        match self {
            Rows::Texts(rows) => {
                for texts in rows {
                    let mut column = 0;
                    for [start, _, end] in texts {
                        ends[0].extend(std::iter::repeat_n(*start as i32, end - start));
                        ends[1].extend(std::iter::repeat_n(*end as i32 - 1, end - start));
                        column = *end;
                    }
                    ends.iter_mut()
                        .for_each(|ends| ends.extend((column..seq).map(|column| column as i32)));
                }
            }
            _ => ends = [vec![0; batch * seq], vec![seq as i32 - 1; batch * seq]],
        }
        if let Some(reach) = reach {
            let reach = reach as i32;
            for (at, first) in ends[0].iter_mut().enumerate() {
                *first = (*first).max((at % seq) as i32 - reach);
            }
            for (at, last) in ends[1].iter_mut().enumerate() {
                *last = (*last).min((at % seq) as i32 + reach);
            }
        }
        let [first, last] = columns(ends);
        Mask {
            first,
            last,
            ..Mask::default()
        }
    }

    /// The type of each token, row by row: 1 of the second of two texts.
    pub(crate) fn types(&self, batch: usize, seq: usize) -> Vec<i32> {
        let Rows::Texts(rows) = self else {
            return vec![0; batch * seq];
        };
        let row = |texts: &Vec<[usize; 3]>| {
            let mut types = vec![0; seq];
            texts.iter().for_each(|[_, second, end]| types[*second..*end].fill(1));
            types
        };
        rows.iter().flat_map(row).collect()
    }

    /// The same with `prompt` columns before every text.
    pub(crate) fn behind_prompts(&self, prompt: usize) -> Self {
        let row = |starts: &Vec<usize>| {
            let moved = starts.iter().enumerate();
            moved.map(|(document, start)| start + document * prompt).collect()
        };
        match self {
            Rows::Packed(rows) if prompt > 0 => Rows::Packed(rows.iter().map(row).collect()),
            other => other.clone(),
        }
    }

    /// Columns that prompts of `prompt` columns add to every row.
    pub(crate) fn prompt_columns(&self, prompt: usize) -> usize {
        match self {
            Rows::Right | Rows::Left(_) | Rows::Tokens(_) | Rows::Texts(_) => prompt,
            Rows::Packed(rows) => prompt * rows.iter().map(Vec::len).max().unwrap_or(0),
        }
    }
}

/// The document of each column, and where it starts.
pub(crate) fn documents(starts: &[usize], seq: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
    let ends = starts.iter().skip(1).copied().chain([seq]);
    let documents = starts.iter().copied().zip(ends).enumerate();
    documents.flat_map(|(document, (start, end))| std::iter::repeat_n((document, start), end.saturating_sub(start)))
}

/// Columns of the longest document, padding included.
fn longest(rows: &[Vec<usize>], seq: usize) -> usize {
    let row = |starts: &Vec<usize>| {
        let ends = starts.iter().skip(1).copied().chain([seq]);
        ends.zip(starts).map(|(end, start)| end.saturating_sub(*start)).max()
    };
    rows.iter().filter_map(row).max().unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_start_again_at_each_document() {
        let rows = Rows::Packed(vec![vec![0, 3, 4], vec![0]]);
        assert_eq!(rows.positions(0, 0, 6), [[0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5]]);
        assert_eq!(rows.positions(2, 0, 4), [[2, 3, 4, 2], [2, 3, 4, 5]]);
        assert_eq!(Rows::packed(None), Rows::Right);
    }

    #[test]
    fn a_document_sees_itself_alone_within_the_window() {
        let rows = Rows::Packed(vec![vec![0, 3, 4], vec![0, 1, 2]]);
        let mask = |window| rows.mask(0, 0, 6, window, &Device::flex());
        let first: Vec<i32> = mask(None).first.unwrap().into_data().iter().collect();
        assert_eq!(first, [0, 0, 0, 3, 4, 4, 0, 1, 2, 2, 2, 2]);
        assert_eq!((mask(None).window, mask(Some(2)).window), (Some(4), Some(2)));
    }

    #[test]
    fn prompts_stand_before_every_document() {
        let rows = Rows::Packed(vec![vec![0, 3], vec![0]]);
        assert_eq!(rows.behind_prompts(2), Rows::Packed(vec![vec![0, 5], vec![0]]));
        assert_eq!((rows.prompt_columns(2), Rows::Right.prompt_columns(2)), (4, 2));
        assert_eq!(Rows::Right.behind_prompts(2), Rows::Right);
    }
}
