//! The backend operations of [`super::uld`].
use super::{SpanPair, UldOptions, portable};
use crate::portable::Val;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use std::sync::Arc;

/// What is compared, and how.
#[derive(Debug, Clone)]
pub struct Task {
    pub(crate) options: UldOptions,
    pub(crate) spans: Arc<[SpanPair]>,
    /// Bounds of the student's and of the teacher's logits.
    pub(crate) caps: [Option<f64>; 2],
}

impl Task {
    /// The objective from its two parts.
    pub(super) fn weigh<B: Backend>(&self, nll: FloatTensor<B>, distance: FloatTensor<B>) -> FloatTensor<B> {
        let alpha = self.options.alpha;
        (Val::<B>(nll).scale(1.0 - alpha) + Val(distance).scale(alpha)).0
    }
}

/// Which gradients are asked for: to the hidden states, to the head.
pub(super) type Wanted = [bool; 2];

/// See [`super::uld`].
#[backend_extension(Cube: cfg(feature = "gpu"), Flex: cfg(feature = "flex"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait UldOps: Backend {
    /// The objective, the negative log likelihood and the distance, `[1]` each.
    #[fusion(default)]
    fn uld(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        teacher_hidden: FloatTensor<Self>,
        teacher_head: FloatTensor<Self>,
        teacher_targets: IntTensor<Self>,
        task: Task,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (nll, distance, ..) = Self::uld_with_gradients(
            hidden,
            head,
            targets,
            teacher_hidden,
            teacher_head,
            teacher_targets,
            task.clone(),
            [false, false],
        );
        (task.weigh::<Self>(nll.clone(), distance.clone()), nll, distance)
    }

    /// The negative log likelihood and the distance, `[1]` each, and the objective's gradients to `hidden` and `head` if asked for.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn uld_with_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        teacher_hidden: FloatTensor<Self>,
        teacher_head: FloatTensor<Self>,
        teacher_targets: IntTensor<Self>,
        task: Task,
        wanted: Wanted,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
    ) {
        let sides = [
            portable::Side::new(hidden, head, targets, task.caps[0]),
            portable::Side::new(teacher_hidden, teacher_head, teacher_targets, task.caps[1]),
        ];
        portable::uld::<Self>(sides, &task, wanted)
    }
}

#[cfg(feature = "gpu")]
impl UldOps for burn_cubecl::CubeBackend {}

#[cfg(feature = "flex")]
impl UldOps for burn::backend::Flex {
    fn uld_with_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        teacher_hidden: FloatTensor<Self>,
        teacher_head: FloatTensor<Self>,
        teacher_targets: IntTensor<Self>,
        task: Task,
        wanted: Wanted,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        Option<FloatTensor<Self>>,
        Option<FloatTensor<Self>>,
    ) {
        let teacher_hidden = flex::narrow(teacher_hidden);
        if !(crate::linear::fused(&hidden, &head) && crate::linear::fused(&teacher_hidden, &teacher_head)) {
            let sides = [
                portable::Side::new(hidden, head, targets, task.caps[0]),
                portable::Side::new(teacher_hidden, teacher_head, teacher_targets, task.caps[1]),
            ];
            return portable::uld::<Self>(sides, &task, wanted);
        }
        flex::run(
            [hidden, head, targets],
            [teacher_hidden, teacher_head, teacher_targets],
            &task,
            wanted,
        )
    }
}

/// The fused code between tensors.
#[cfg(feature = "flex")]
mod flex {
    use super::{Task, Wanted};
    use crate::cpu::distillation::Wanted as Targets;
    use crate::cpu::flex::{fresh, tensor, vector};
    use crate::cpu::uld::uld;
    use crate::cross_entropy::flex::with_head;
    use burn::backend::TensorMetadata;
    use burn::backend::flex::FlexTensor;
    use burn::tensor::DType;

    /// The teacher's activations in f32, unless they are f64.
    pub(super) fn narrow(x: FlexTensor) -> FlexTensor {
        if x.dtype() == DType::F64 { x } else { vector(x) }
    }

    /// Two sums and two gradients. Of both models: hidden states, head, targets.
    pub(super) fn run(
        [hidden, head, targets]: [FlexTensor; 3],
        [teacher_hidden, teacher_head, teacher_targets]: [FlexTensor; 3],
        task: &Task,
        wanted: Wanted,
    ) -> (FlexTensor, FlexTensor, Option<FlexTensor>, Option<FlexTensor>) {
        let mut to_hidden = wanted[0].then(|| fresh(hidden.shape().num_elements()));
        let mut to_head = wanted[1].then(|| {
            let size = head.shape().num_elements();
            // Without rows nothing would be written.
            if hidden.shape()[0] == 0 {
                vec![0.0; size]
            } else {
                fresh(size)
            }
        });
        let gradients = Targets {
            hidden: to_hidden.as_deref_mut(),
            head: to_head.as_deref_mut(),
        };
        let sums = with_head(&hidden, &head, targets, task.caps[0], |student| {
            with_head(
                &teacher_hidden,
                &teacher_head,
                teacher_targets,
                task.caps[1],
                |teacher| uld(student, teacher, task, gradients),
            )
        });
        let [nll, distance] = sums.map(|sum| tensor(vec![sum as f32], [1]));
        (
            nll,
            distance,
            to_hidden.map(|g| tensor(g, hidden.shape())),
            to_head.map(|g| tensor(g, head.shape())),
        )
    }
}
