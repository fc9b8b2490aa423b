//! Tensor operations that Burn lacks or that a fused version makes faster, each with its own backward pass.
