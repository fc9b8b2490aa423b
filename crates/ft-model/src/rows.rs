use burn::tensor::{Device, Int, Tensor, TensorData};
use ft_kernels::Mask;

/// How the rows of a batch lie in their columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every row starts at column 0; padding, if any, is at the end and is hidden by the causal mask alone.
    Right,
    /// Row r has `pad[r]` columns of padding before its first token (generation over prompts of several lengths).
    Left(Vec<usize>),
}

impl Rows {
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
        let first = match self {
            Rows::Right => None,
            Rows::Left(pads) if pads.iter().all(|pad| *pad == 0) => None,
            Rows::Left(pads) => {
                let columns: Vec<i32> = pads
                    .iter()
                    .flat_map(|pad| std::iter::repeat_n(*pad as i32, seq))
                    .collect();
                Some(Tensor::<2, Int>::from_data(
                    TensorData::new(columns, [pads.len(), seq]),
                    device,
                ))
            }
        };
        Mask {
            offset,
            window,
            first,
            prefix,
        }
    }
}
