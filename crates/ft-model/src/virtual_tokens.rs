//! Learned columns before the text: what they are to the layers of one call.

use burn::tensor::{Int, Tensor, TensorData};
use ft_kernels::{Mask, Output};

use crate::rows::{Rows, documents};

/// What one layer is told beside its input.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Which columns its queries see.
    pub mask: Mask,
    /// Keys and values of a prefix, `[n, 2 kv_heads head_dim]`, unless the cache holds them already.
    pub prefix: Option<Tensor<2>>,
    /// Whether its output is read.
    pub output: Output,
}

impl View {
    /// Keys and values `[batch, seq, kv_heads, head_dim]` behind those of the prefix.
    pub fn behind_prefix(&self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let Some(prefix) = &self.prefix else {
            return (keys, values);
        };
        let [batch, _, heads, dim] = keys.dims();
        let [n, _] = prefix.dims();
        let prefix = prefix.clone().cast(keys.dtype()).reshape([n, 2, heads, dim]);
        let part = |i: usize| {
            prefix
                .clone()
                .narrow(1, i, 1)
                .swap_dims(0, 1)
                .expand([batch, n, heads, dim])
        };
        (
            Tensor::cat(vec![part(0), keys], 1),
            Tensor::cat(vec![part(1), values], 1),
        )
    }
}

/// Embeddings `[n, hidden]` of a prompt before the text `[batch, seq, hidden]` of every row, behind its padding, or before every
/// document of a row: `[batch, n + seq, hidden]`, with documents as wide as [`Rows::prompt_columns`] says. Each text stays in one piece
/// with its prompt, so positions, masks and windows need not know.
pub(crate) fn prepend(prompt: Tensor<2>, text: Tensor<3>, rows: &Rows) -> Tensor<3> {
    let ([n, hidden], [batch, seq, _]) = (prompt.dims(), text.dims());
    let prompt = prompt.cast(text.dtype()).unsqueeze::<3>().expand([batch, n, hidden]);
    let both = Tensor::cat(vec![prompt, text], 1);
    // Columns of `both` that each row of the result takes.
    let columns: Vec<Vec<usize>> = match rows {
        Rows::Right | Rows::Tokens(_) | Rows::Texts(_) => return both,
        Rows::Left(pads) if pads.iter().all(|pad| *pad == 0) => return both,
        // Padding, prompt, text.
        Rows::Left(pads) => {
            let row = |pad: &usize| (n..n + pad).chain(0..n).chain(n + pad..n + seq).collect();
            pads.iter().map(row).collect()
        }
        Rows::Packed(documents) => {
            let width = seq + rows.prompt_columns(n);
            let row = |starts: &Vec<usize>| {
                let ends = starts.iter().skip(1).copied().chain([seq]);
                let document = |(start, end): (&usize, usize)| (0..n).chain(n + start..n + end);
                let texts = starts.iter().zip(ends).flat_map(document);
                texts.chain(std::iter::repeat(0)).take(width).collect()
            };
            documents.iter().map(row).collect()
        }
    };
    pick(both, &columns)
}

/// The text's columns of hidden states that [`prepend`]ed prompts of `n` columns went into.
pub(crate) fn behind(n: usize, hidden: Tensor<3>, rows: &Rows) -> Tensor<3> {
    let [_, columns, _] = hidden.dims();
    let seq = columns - rows.prompt_columns(n);
    match rows {
        _ if n == 0 => hidden,
        Rows::Right | Rows::Left(_) | Rows::Tokens(_) | Rows::Texts(_) => hidden.narrow(1, n, seq),
        Rows::Packed(packed) => {
            let row = |starts: &Vec<usize>| {
                let own = documents(starts, seq).enumerate();
                own.map(|(column, (document, _))| column + n * (document + 1)).collect()
            };
            let columns: Vec<Vec<usize>> = packed.iter().map(row).collect();
            pick(hidden, &columns)
        }
    }
}

/// For each row of x `[batch, seq, hidden]` the columns that are named, as many for each.
fn pick(x: Tensor<3>, columns: &[Vec<usize>]) -> Tensor<3> {
    let [batch, seq, hidden] = x.dims();
    let width = columns.first().map_or(0, Vec::len);
    let rows = columns.iter().enumerate();
    let cells = rows.flat_map(|(row, columns)| columns.iter().map(move |column| (row * seq + column) as i32));
    let cells = TensorData::new(cells.collect::<Vec<i32>>(), [batch * width]);
    let cells = Tensor::<1, Int>::from_data(cells, &x.device());
    let x = x.reshape([batch * seq, hidden]).select(0, cells);
    x.reshape([batch, width, hidden])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_prompt_stands_between_the_padding_and_the_text() {
        let device = Device::flex();
        let prompt = Tensor::<2>::from_floats([[1.0], [2.0]], &device);
        let text = Tensor::<3>::from_floats([[[5.0], [6.0], [7.0]], [[0.0], [8.0], [9.0]]], &device);
        let found = |rows| {
            prepend(prompt.clone(), text.clone(), &rows)
                .into_data()
                .try_to_vec::<f32>()
                .unwrap()
        };
        let left = found(Rows::Left(vec![0, 1]));
        assert_eq!(left, [1.0, 2.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 8.0, 9.0]);
        assert_eq!(found(Rows::Right)[5..], [1.0, 2.0, 0.0, 8.0, 9.0]);
        assert_eq!(found(Rows::Left(vec![0, 0])), found(Rows::Right));
    }

    #[test]
    fn a_prompt_stands_before_every_document() {
        let device = Device::flex();
        let prompt = Tensor::<2>::from_floats([[1.0], [2.0]], &device);
        let text = Tensor::<3>::from_floats([[[5.0], [6.0], [7.0]], [[8.0], [9.0], [0.0]]], &device);
        let rows = Rows::Packed(vec![vec![0, 1], vec![0]]);
        let both = prepend(prompt, text.clone(), &rows);
        let values = |x: Tensor<3>| x.into_data().try_to_vec::<f32>().unwrap();
        let found = values(both.clone());
        assert_eq!(found[..7], [1.0, 2.0, 5.0, 1.0, 2.0, 6.0, 7.0]);
        assert_eq!(found[7..12], [1.0, 2.0, 8.0, 9.0, 0.0]);
        assert_eq!(values(behind(2, both, &rows)), values(text));
    }
}
