//! Data formats, tokenizers, chat templates, loss masks and padded batches.
