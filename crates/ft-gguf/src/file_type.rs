//! What the matrices of a file are stored as: one type, or a mixture that gives more bits to those that matter most.

use crate::Dtype;

/// The types of a file, by the names that `llama-quantize` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// One type for all matrices but a head of K-quants, which is `Q6_K`.
    All(Dtype),
    /// `Q4_K`, with `Q6_K` for the head and half of `attn_v` and `ffn_down`.
    Q4KM,
    /// `Q5_K`, with `Q6_K` for the same.
    Q5KM,
}

/// What the choice of a tensor's type depends on besides its name and shape.
#[derive(Clone, Copy, Debug)]
pub struct FileShape {
    /// Blocks of the model.
    pub layers: usize,
    /// Whether the head is the embedding table.
    pub tied: bool,
}

impl FileType {
    /// Value of `general.file_type`.
    pub fn number(self) -> u32 {
        match self {
            FileType::All(Dtype::F32) => 0,
            FileType::All(Dtype::F16) => 1,
            FileType::All(Dtype::Q8_0) => 7,
            FileType::All(Dtype::Q5_0) => 8,
            FileType::All(Dtype::Q5_1) => 9,
            FileType::All(Dtype::Q4K) => 14,
            FileType::Q4KM => 15,
            FileType::All(Dtype::Q5K) => 16,
            FileType::Q5KM => 17,
            FileType::All(Dtype::Q6K) => 18,
            FileType::All(Dtype::Bf16) => 32,
        }
    }

    /// The type of a tensor: f32 for vectors and position tables, which llama.cpp computes with; for matrices as `llama-quantize` chooses without an
    /// importance matrix, and the next larger type where rows are no multiple of its blocks.
    pub fn dtype(self, name: &str, shape: &[usize], file: FileShape) -> Dtype {
        match shape {
            [_, columns] if !name.starts_with("position_embd") => self.of_matrix(name, file).that_holds(*columns),
            _ => Dtype::F32,
        }
    }

    fn of_matrix(self, name: &str, file: FileShape) -> Dtype {
        let most = match self {
            FileType::All(dtype) => dtype,
            FileType::Q4KM => Dtype::Q4K,
            FileType::Q5KM => Dtype::Q5K,
        };
        let head = if file.tied {
            "token_embd.weight"
        } else {
            "output.weight"
        };
        if name == head && [Dtype::Q4K, Dtype::Q5K].contains(&most) {
            return Dtype::Q6K;
        }
        let inside = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let Some((Ok(layer), module)) = inside.map(|(layer, module)| (layer.parse::<usize>(), module)) else {
            return most;
        };
        match (self, module) {
            (FileType::All(_), _) => most,
            (_, "attn_v.weight" | "ffn_down.weight") if more_bits(layer, file.layers) => Dtype::Q6K,
            // A matrix of values that eight heads share is small for what hangs on it.
            (FileType::Q4KM, "attn_v.weight") if file.layers == 80 => Dtype::Q5K,
            (FileType::Q4KM, "attn_qkv.weight") => Dtype::Q5K,
            (FileType::Q5KM, "attn_qkv.weight") => Dtype::Q6K,
            _ => most,
        }
    }
}

/// The first and last eighth of all layers, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_no_multiple_of_a_block_have_the_next_larger_type() {
        let file = FileShape { layers: 2, tied: false };
        let dtype = |columns| FileType::Q4KM.dtype("blk.0.attn_q.weight", &[4, columns], file);
        assert_eq!([256, 96, 40].map(dtype), [Dtype::Q4K, Dtype::Q5_0, Dtype::F16]);
        let head = |columns| FileType::Q4KM.dtype("output.weight", &[4, columns], file);
        assert_eq!([256, 96, 40].map(head), [Dtype::Q6K, Dtype::Q8_0, Dtype::F16]);
        assert_eq!(FileType::Q4KM.dtype("blk.0.attn_norm.weight", &[256], file), Dtype::F32);
    }
}
