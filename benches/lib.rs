//! The benchmarks' programs, one module each; `bin/` starts them, alone or all from one file.

pub mod agree;
pub mod decode;
pub mod logits;
pub mod plan;
mod planned;
pub mod rates;
pub mod shapes;
pub mod step;
mod words;
