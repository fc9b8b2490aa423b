//! LoRA on a table of rows that are looked up by id.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use crate::methods::ParamMut;
use crate::methods::common::f32;

/// Adapter of an embedding table.
#[derive(Module, Debug)]
pub struct LoraEmbedding {
    /// `[r, rows]`.
    pub a: Param<Tensor<2>>,
    /// `[hidden, r]`.
    pub b: Param<Tensor<2>>,
    /// s.
    #[module(skip)]
    pub scale: f64,
}

impl LoraEmbedding {
    /// `E[id] + s · B A[:, id]` for each of ids `[n]`; PEFT applies no dropout here.
    pub fn lookup(&self, rows: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
        let down = ft_kernels::embedding(self.a.val().transpose(), ids).mul_scalar(self.scale);
        let dtype = rows.dtype();
        rows + ft_kernels::linear(down, self.b.val()).cast(dtype)
    }

    /// `E + s · (B A)ᵀ` in f32.
    pub fn fold(&self, table: Tensor<2>) -> Tensor<2> {
        let delta = self.b.val().detach().matmul(self.a.val().detach()).transpose();
        f32(table) + delta.mul_scalar(self.scale)
    }

    /// The trainable tensors, by their names in PEFT's file after the table's path.
    pub fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("lora_embedding_A", ParamMut::Matrix(&mut self.a)),
            ("lora_embedding_B", ParamMut::Matrix(&mut self.b)),
        ]
    }
}
