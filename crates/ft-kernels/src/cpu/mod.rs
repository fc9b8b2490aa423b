//! Fused f32 code for the CPU backend: threads by rayon, vector code chosen at run time.
pub(crate) mod attention;
pub(crate) mod bottleneck;
pub(crate) mod codes;
pub(crate) mod cross_entropy;
pub(crate) mod distillation;
pub(crate) mod flex;
pub(crate) mod frozen;
pub(crate) mod gemm;
pub(crate) mod isa;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod norm;
pub(crate) mod par;
pub(crate) mod pointwise;
pub(crate) mod rope;
pub(crate) mod scratch;
pub(crate) mod uld;
