//! Decoder families loaded from Hugging Face checkpoints, with one forward pass for training and generation.
