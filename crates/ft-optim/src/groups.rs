//! What an optimizer does differently from one parameter to the next, judged by its path and shape.

/// How an optimizer treats a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// Whether weight decay applies.
    pub decay: bool,
    /// Whether it is a hidden matrix, which [`Muon`](crate::Muon) orthogonalizes.
    pub hidden: bool,
    /// Whether it is a table of embeddings, whose states [`AdamW8bit`](crate::AdamW8bit) keeps in f32.
    pub embedding: bool,
}

impl Group {
    /// The group of the parameter at `path`.
    pub fn of(path: &str, shape: &[usize]) -> Self {
        Self {
            decay: decays(path),
            hidden: hidden(path, shape),
            embedding: embedding(path),
        }
    }

    /// `weight_decay` where it applies, else 0.
    pub(crate) fn weight_decay(self, weight_decay: f64) -> f64 {
        if self.decay { weight_decay } else { 0.0 }
    }
}

/// Whether a parameter is a matrix inside the network: not a vector, whatever its rank, not a table of embeddings or a
/// head, whose rows stand for tokens, and not a convolution of each channel by itself.
pub fn hidden(path: &str, shape: &[usize]) -> bool {
    let other = path.split('.').any(|segment| matches!(segment, "lm_head" | "conv1d"));
    shape.len() == 2 && shape.iter().all(|size| *size > 1) && !other && !embedding(path)
}

/// Whether the parameter at `path` is a table of embeddings: of tokens, positions or a prompt.
pub fn embedding(path: &str) -> bool {
    let table =
        |segment: &str| segment.contains("embed") || segment.contains("prompt") || matches!(segment, "wte" | "wpe");
    path.split('.').any(table)
}

/// Whether the parameter at `path` decays: everything but biases and normalization parameters, as Hugging Face's
/// Trainer groups them.
///
/// The Trainer excludes `torch.nn.LayerNorm` by type and everything else by name; a path has no types, so the `ln_*`
/// names under which GPT-2 keeps its layer norms count as norms here.
pub fn decays(path: &str) -> bool {
    let path = path.to_lowercase();
    let anywhere = ["bias", "layernorm", "rmsnorm"].iter().any(|word| path.contains(word));
    let norm = |segment: &str| segment == "norm" || segment.ends_with("_norm") || segment.starts_with("ln_");
    !anywhere && !path.split('.').any(norm)
}
