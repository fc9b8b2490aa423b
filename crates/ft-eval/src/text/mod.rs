//! What the text metrics count: words, n-grams, subsequences.

pub(crate) mod lcs;
pub(crate) mod ngrams;
pub(crate) mod porter;
pub(crate) mod ptb;
pub(crate) mod python;
mod tokenizer;

pub use tokenizer::BleuTokenizer;
pub(crate) use tokenizer::v13a;
