//! The backend operations of [`super::distillation`] and [`super::teacher_topk`].
use super::options::Objective;
use super::portable;
use crate::portable::Val;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, ExtensionType, backend_extension};

/// What is known of the teacher: see [`super::Teacher`].
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "gpu"))]
pub enum Scores<B: Backend> {
    /// `[n, d]`, `[vocab, d]`.
    Live {
        hidden: FloatTensor<B>,
        head: FloatTensor<B>,
    },
    /// `[n, k]` each.
    TopK {
        ids: IntTensor<B>,
        log_probs: FloatTensor<B>,
    },
}

impl<B: Backend, C: CheckpointStrategy> Scores<Autodiff<B, C>> {
    pub(super) fn inner(self) -> Scores<B> {
        match self {
            Scores::Live { hidden, head } => Scores::Live {
                hidden: hidden.into_primitive(),
                head: head.into_primitive(),
            },
            Scores::TopK { ids, log_probs } => Scores::TopK {
                ids,
                log_probs: log_probs.into_primitive(),
            },
        }
    }
}

/// Which gradients are asked for: to the hidden states, to the head.
pub(super) type Wanted = [bool; 2];

/// See [`super::distillation`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait DistillationOps: Backend {
    /// The objective, the negative log likelihood and the divergence, `[1]` each.
    #[fusion(default)]
    fn distill(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        #[extension_type] teacher: Scores<Self>,
        objective: Objective,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (nll, divergence, ..) =
            Self::distill_with_gradients(hidden, head, targets, teacher, objective, [false, false]);
        (
            mean::<Self>(nll.clone(), divergence.clone(), objective),
            nll,
            divergence,
        )
    }

    /// The negative log likelihood and the divergence, `[1]` each, and the objective's gradients to `hidden` and `head` if
    /// asked for.
    #[fusion(default)]
    #[allow(clippy::type_complexity)]
    fn distill_with_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        #[extension_type] teacher: Scores<Self>,
        objective: Objective,
        wanted: Wanted,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
    ) {
        portable::distill::<Self>(hidden, head, targets, teacher, objective, wanted)
    }

    /// Ids (i32) and logarithms of the probabilities of the `k` most probable of `common` tokens, `[n, k]` each.
    #[fusion(default)]
    fn top_k(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        k: usize,
        temperature: f64,
        common: usize,
        cap: Option<f64>,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        portable::top_k::<Self>(hidden, head, k, temperature, common, cap)
    }
}

/// The objective from its two parts.
pub(super) fn mean<B: Backend>(
    nll: FloatTensor<B>,
    divergence: FloatTensor<B>,
    objective: Objective,
) -> FloatTensor<B> {
    let alpha = objective.options.alpha;
    (Val::<B>(nll).scale(1.0 - alpha) + Val(divergence).scale(alpha)).0
}

#[cfg(feature = "gpu")]
impl DistillationOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl DistillationOps for burn::backend::Flex {
    fn distill_with_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        teacher: Scores<Self>,
        objective: Objective,
        wanted: Wanted,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
    ) {
        let teacher = flex::narrow(teacher);
        if !(crate::linear::fused(&hidden, &head) && flex::fused(&teacher)) {
            return portable::distill::<Self>(hidden, head, targets, teacher, objective, wanted);
        }
        flex::distill(&hidden, &head, targets, teacher, &objective, wanted)
    }

    fn top_k(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        k: usize,
        temperature: f64,
        common: usize,
        cap: Option<f64>,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        if !crate::linear::fused(&hidden, &head) {
            return portable::top_k::<Self>(hidden, head, k, temperature, common, cap);
        }
        flex::top_k(hidden, &head, k, temperature, common, cap)
    }
}

/// The fused code between tensors.
#[cfg(feature = "flex")]
mod flex {
    use super::{Objective, Scores, Wanted};
    use crate::cpu::distillation::{Teacher, Wanted as Targets, distill as run, top_k as best};
    use crate::cpu::flex::{contiguous, fresh, integers, matrix, tensor, values, vector};
    use crate::linear;
    use burn::backend::flex::FlexTensor;
    use burn::backend::{Flex, TensorMetadata};
    use burn::tensor::{DType, TensorData};

    /// The teacher's activations and scores in f32, unless they are f64.
    pub(super) fn narrow(teacher: Scores<Flex>) -> Scores<Flex> {
        let f32 = |x: FlexTensor| if x.dtype() == DType::F64 { x } else { vector(x) };
        match teacher {
            Scores::Live { hidden, head } => Scores::Live {
                hidden: f32(hidden),
                head,
            },
            Scores::TopK { ids, log_probs } => Scores::TopK {
                ids,
                log_probs: f32(log_probs),
            },
        }
    }

    pub(super) fn fused(teacher: &Scores<Flex>) -> bool {
        match teacher {
            Scores::Live { hidden, head } => linear::fused(hidden, head),
            Scores::TopK { log_probs, .. } => log_probs.dtype() == DType::F32,
        }
    }

    /// Two sums and two gradients.
    type Results = (FlexTensor, FlexTensor, Option<FlexTensor>, Option<FlexTensor>);

    pub(super) fn distill(
        hidden: &FlexTensor,
        head: &FlexTensor,
        targets: FlexTensor,
        teacher: Scores<Flex>,
        objective: &Objective,
        wanted: Wanted,
    ) -> Results {
        let mut to_hidden = wanted[0].then(|| fresh(hidden.shape().num_elements()));
        let mut to_head = wanted[1].then(|| gradient(head, hidden.shape()[0]));
        let targets_of = Targets {
            hidden: to_hidden.as_deref_mut(),
            head: to_head.as_deref_mut(),
        };
        let sums = crate::cross_entropy::flex::with_head(hidden, head, targets, objective.caps[0], |student| {
            with_teacher(&teacher, objective.common, |teacher| {
                run(student, teacher, objective, targets_of)
            })
        });
        let [nll, divergence] = sums.map(|sum| tensor(vec![sum as f32], [1]));
        (
            nll,
            divergence,
            to_hidden.map(|g| tensor(g, hidden.shape())),
            to_head.map(|g| tensor(g, head.shape())),
        )
    }

    /// Memory for the head's gradient: without rows nothing would be written.
    fn gradient(head: &FlexTensor, rows: usize) -> Vec<f32> {
        let size = head.shape().num_elements();
        if rows == 0 { vec![0.0; size] } else { fresh(size) }
    }

    /// Runs `f` with the view of the teacher.
    fn with_teacher<R>(teacher: &Scores<Flex>, common: usize, f: impl FnOnce(&Teacher) -> R) -> R {
        match teacher {
            Scores::Live { hidden, head } => f(&Teacher::Live {
                hidden: matrix(hidden).expect("f32"),
                weight: matrix(head).expect("checked by the caller").narrow_rows(0, common),
            }),
            Scores::TopK { ids, log_probs } => {
                let index = |id: i64| usize::try_from(id).ok().filter(|&id| id < common);
                let ids: Vec<usize> = integers(ids.clone())
                    .into_iter()
                    .map(|id| {
                        index(id).unwrap_or_else(|| panic!("distillation: teacher's id {id} outside {common} rows"))
                    })
                    .collect();
                f(&Teacher::TopK {
                    ids: &ids,
                    log_probs: values(log_probs),
                })
            }
        }
    }

    pub(super) fn top_k(
        hidden: FlexTensor,
        head: &FlexTensor,
        k: usize,
        temperature: f64,
        common: usize,
        cap: Option<f64>,
    ) -> (FlexTensor, FlexTensor) {
        let hidden = contiguous(hidden);
        let n = hidden.shape()[0];
        let weight = matrix(head).expect("checked by the caller").narrow_rows(0, common);
        let (ids, log_probs) = best(
            matrix(&hidden).expect("f32"),
            weight,
            k,
            temperature as f32,
            cap.map(|cap| cap as f32),
        );
        (
            FlexTensor::from_data(TensorData::new(ids, [n, k])),
            tensor(log_probs, [n, k]),
        )
    }
}
