//! What a teacher says of a batch: a model, asked at every step, or what it once said, in a file.

use burn::tensor::{Device, Tensor};
use ft_data::Batch;
use ft_kernels::Teacher;
use ft_model::Model;

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
                let layers = teacher_layers(pairs);
                let states = States::of(teacher, batch, &layers);
                let of_pair = |[_, layer]: &LayerPair| {
                    let number = layers.binary_search(layer).expect("asked for above");
                    states.after[number].clone()
                };
                let (hidden, head) = teacher.head_product(at_targets(states.last.clone(), batch).0);
                Asked {
                    says: Teacher::Live { hidden, head },
                    states: pairs.iter().map(of_pair).collect(),
                }
            }
            Scores::Cached { cache, starts } => Asked {
                says: cache.teacher(batch, &starts[part as usize], device),
                states: Vec::new(),
            },
        }
    }
}

fn teacher_layers(pairs: &[LayerPair]) -> Vec<usize> {
    let mut layers: Vec<usize> = pairs.iter().map(|[_, teacher]| *teacher).collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}

/// A teacher's hidden states at the positions that predict a target token, and its head: `[n, d]`, `[vocab, d]`.
pub(crate) fn teacher_states(teacher: &Model, batch: &Batch) -> (Tensor<2>, Tensor<2>) {
    let (hidden, _) = at_targets(plain_hidden(teacher, batch), batch);
    teacher.head_product(hidden)
}
