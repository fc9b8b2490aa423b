//! Learned columns before the text: what they are to the layers of one call.

use burn::tensor::{Int, Tensor, TensorData};
use ft_kernels::{Mask, Output};

use crate::rows::Rows;

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

/// Embeddings `[n, hidden]` of a prompt before the text `[batch, seq, hidden]` of every row, behind its padding:
/// `[batch, n + seq, hidden]`. Each row stays in one piece, so positions, masks and windows need not know.
pub(crate) fn prepend(prompt: Tensor<2>, text: Tensor<3>, rows: &Rows) -> Tensor<3> {
    let ([n, hidden], [batch, seq, _]) = (prompt.dims(), text.dims());
    let prompt = prompt.cast(text.dtype()).unsqueeze::<3>().expand([batch, n, hidden]);
    let both = Tensor::cat(vec![prompt, text], 1);
    let Rows::Left(pads) = rows else { return both };
    if pads.iter().all(|pad| *pad == 0) {
        return both;
    }
    // Column of `both` that each column of the result takes: padding, prompt, text.
    let width = n + seq;
    let row = |(r, pad): (usize, &usize)| {
        let (start, pad) = (r * width, *pad);
        let order = (n..n + pad).chain(0..n).chain(n + pad..width);
        order.map(move |column| (start + column) as i32).collect::<Vec<_>>()
    };
    let order: Vec<i32> = pads.iter().enumerate().flat_map(row).collect();
    let order = Tensor::<1, Int>::from_data(TensorData::new(order, [batch * width]), &both.device());
    let rows = both.reshape([batch * width, hidden]).select(0, order);
    rows.reshape([batch, width, hidden])
}

/// The columns behind the first `n`.
pub(crate) fn behind(n: usize, hidden: Tensor<3>) -> Tensor<3> {
    let [_, columns, _] = hidden.dims();
    if n == 0 {
        hidden
    } else {
        hidden.narrow(1, n, columns - n)
    }
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
}
