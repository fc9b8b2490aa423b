//! What a teacher says of a batch: a model, asked at every step, or what it once said, in a file.

use burn::tensor::{Device, Tensor};
use ft_data::Batch;
use ft_kernels::{Head, Teacher};
use ft_model::Model;
use ft_quant::{Kind, Scheme};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hidden_states::{LayerPair, States};
use super::targets::plain_hidden;
use super::teacher_cache::TeacherCache;
use super::{Part, at_targets};

/// Where a teacher's scores come from.
#[derive(Debug)]
pub(super) enum Scores {
    /// A model, frozen, on a plain device.
    Live(Box<Model>),
    /// A file; and the first target token of every training and held-out sample in it.
    Cached {
        cache: TeacherCache,
        starts: [Vec<usize>; 2],
    },
}

/// What a teacher says of a batch.
pub(super) struct Asked {
    /// Its probabilities.
    pub says: Teacher,
    /// Its hidden states for every pair of layers, `[n, hidden]` in f32.
    pub states: Vec<Tensor<2>>,
}

impl Scores {
    /// What the teacher says at the positions that predict a target token.
    /// Hidden states are those of the second of each pair of layers.
    pub fn ask(&self, batch: &Batch, part: Part, pairs: &[LayerPair], device: &Device) -> Asked {
        match self {
            Scores::Live(teacher) => {
                let layers = layers_of_teacher(pairs);
                let states = States::of(teacher, batch, &layers, &batch.positions);
                let of_pairs = states_of_pairs(pairs, &layers, &states);
                let (hidden, head) = teacher.head_product(at_targets(states.last.clone(), batch).0);
                Asked {
                    says: Teacher::Live { hidden, head },
                    states: of_pairs,
                }
            }
            Scores::Cached { cache, starts } => Asked {
                says: cache.teacher(batch, &starts[part as usize], device),
                states: Vec::new(),
            },
        }
    }
}

/// The layers of the teacher that these pairs are about, ascending.
pub(super) fn layers_of_teacher(pairs: &[LayerPair]) -> Vec<usize> {
    let mut layers: Vec<usize> = pairs.iter().map(|[_, teacher]| *teacher).collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}

/// The hidden states of the second of each of these pairs, out of those of `layers`.
pub(super) fn states_of_pairs(pairs: &[LayerPair], layers: &[usize], states: &States) -> Vec<Tensor<2>> {
    let of_pair = |[_, layer]: &LayerPair| {
        let number = layers.binary_search(layer).expect("among the layers");
        states.after[number].clone()
    };
    pairs.iter().map(of_pair).collect()
}

/// How the teacher's projections are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TeacherStorage {
    /// 4 bits, normal quantiles.
    Nf4,
    /// 4 bits, floating point.
    Fp4,
    /// 8 bits, row by row.
    Int8,
}

impl TeacherStorage {
    pub(super) fn scheme(self) -> Scheme {
        Scheme::new(match self {
            TeacherStorage::Nf4 => Kind::Nf4,
            TeacherStorage::Fp4 => Kind::Fp4,
            TeacherStorage::Int8 => Kind::Int8,
        })
    }
}

/// A teacher's hidden states at the positions that predict a target token, and its head: `[n, d]`, `[vocab, d]`.
pub(crate) fn teacher_states(teacher: &Model, batch: &Batch) -> (Tensor<2>, Head) {
    let (hidden, _) = at_targets(plain_hidden(teacher, batch), batch);
    teacher.head_product(hidden)
}
