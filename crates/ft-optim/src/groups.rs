//! Which parameters weight decay applies to.

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
