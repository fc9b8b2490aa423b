//! The ft command: fine-tune, evaluate, generate, merge and inspect language models.
