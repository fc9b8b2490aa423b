//! Metrics and tasks: token-exact streaming perplexity and exact match.
