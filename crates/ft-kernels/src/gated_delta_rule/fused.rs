//! The CPU's own code, with the backward pass by hand.
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::{Int, Tensor};

use super::DeltaHeads;
use crate::cpu;
use crate::portable::once;

/// The first column that each column sees, where not all do.
#[derive(Debug, Clone, ExtensionType)]
pub enum Documents<B: Backend> {
    /// All are seen.
    One,
    /// `[b, s]`.
    From(IntTensor<B>),
}

impl<B: Backend, C: CheckpointStrategy> Documents<Autodiff<B, C>> {
    fn inner(self) -> Documents<B> {
        match self {
            Documents::One => Documents::One,
            Documents::From(first) => Documents::From(first),
        }
    }
}

fn documents(first: Option<Tensor<2, Int>>) -> Documents<Dispatch> {
    match first {
        None => Documents::One,
        Some(first) => Documents::From(first.into_dispatch()),
    }
}

pub(super) fn outputs(
    qkv: Tensor<3>,
    decay: Tensor<3>,
    beta: Tensor<3>,
    heads: DeltaHeads,
    first: Option<Tensor<2, Int>>,
) -> Tensor<4> {
    let [qkv, decay, beta] = [qkv, decay, beta].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as DeltaRuleOps>::delta_rule(
        qkv,
        decay,
        beta,
        documents(first),
        heads,
    ))
}

pub(super) fn continued(
    state: Option<Tensor<4>>,
    qkv: Tensor<3>,
    decay: Tensor<3>,
    beta: Tensor<3>,
    heads: DeltaHeads,
    first: Option<Tensor<2, Int>>,
) -> (Tensor<4>, Tensor<4>) {
    let [b, ..] = qkv.dims();
    let state =
        state.unwrap_or_else(|| Tensor::zeros([b, heads.value_heads, heads.key_dim, heads.value_dim], &qkv.device()));
    let [qkv, decay, beta] = [qkv, decay, beta].map(Tensor::into_dispatch);
    let (out, state) =
        <Dispatch as DeltaRuleOps>::delta_rule_from(state.into_dispatch(), qkv, decay, beta, documents(first), heads);
    (Tensor::from_dispatch(out), Tensor::from_dispatch(state))
}

/// The backend operations of [`super::gated_delta_rule`], on the CPU in f32.
#[backend_extension(Flex, Autodiff)]
pub trait DeltaRuleOps: Backend {
    /// The outputs `[b, s, value heads, value dim]`.
    fn delta_rule(
        qkv: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        #[extension_type] documents: Documents<Self>,
        heads: DeltaHeads,
    ) -> FloatTensor<Self>;

    /// Gradients to qkv, decay and beta.
    fn delta_rule_gradients(
        qkv: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        #[extension_type] documents: Documents<Self>,
        heads: DeltaHeads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The outputs from a state, and the state behind them.
    fn delta_rule_from(
        state: FloatTensor<Self>,
        qkv: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        #[extension_type] documents: Documents<Self>,
        heads: DeltaHeads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl DeltaRuleOps for burn::backend::Flex {
    fn delta_rule(
        qkv: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        documents: Documents<Self>,
        heads: DeltaHeads,
    ) -> FloatTensor<Self> {
        cpu::delta_rule::forward([qkv, decay, beta], first(documents), heads)
    }

    fn delta_rule_gradients(
        qkv: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        documents: Documents<Self>,
        heads: DeltaHeads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        cpu::delta_rule::backward([qkv, decay, beta, dout], first(documents), heads)
    }

    fn delta_rule_from(
        state: FloatTensor<Self>,
        qkv: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        documents: Documents<Self>,
        heads: DeltaHeads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cpu::delta_rule::recurrent(state, [qkv, decay, beta], first(documents), heads)
    }
}

fn first(documents: Documents<burn::backend::Flex>) -> Option<Vec<i64>> {
    match documents {
        Documents::One => None,
        Documents::From(first) => Some(cpu::flex::integers(first)),
    }
}

impl<B: DeltaRuleOps, C: CheckpointStrategy> DeltaRuleOps for Autodiff<B, C> {
    fn delta_rule(
        qkv: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        documents: Documents<Self>,
        heads: DeltaHeads,
    ) -> FloatTensor<Self> {
        let documents = documents.inner();
        let ((qkv, qkv_node), (decay, decay_node)) = (qkv.into_parts(), decay.into_parts());
        let (beta, beta_node) = beta.into_parts();
        let nodes = [qkv_node, decay_node, beta_node];
        match DeltaRule.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let kept = Kept {
                    inputs: [qkv.clone(), decay.clone(), beta.clone()],
                    documents: documents.clone(),
                    heads,
                };
                prep.finish(kept, B::delta_rule(qkv, decay, beta, documents, heads))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::delta_rule(qkv, decay, beta, documents, heads)),
        }
    }

    fn delta_rule_gradients(
        _qkv: FloatTensor<Self>,
        _decay: FloatTensor<Self>,
        _beta: FloatTensor<Self>,
        _dout: FloatTensor<Self>,
        _documents: Documents<Self>,
        _heads: DeltaHeads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        once("gated_delta_rule")
    }

    fn delta_rule_from(
        state: FloatTensor<Self>,
        qkv: FloatTensor<Self>,
        decay: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        documents: Documents<Self>,
        heads: DeltaHeads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [state, qkv, decay, beta] = [state, qkv, decay, beta].map(|x| x.into_primitive());
        let (out, state) = B::delta_rule_from(state, qkv, decay, beta, documents.inner(), heads);
        use burn::backend::AutodiffBackend;
        (Self::from_inner(out), Self::from_inner(state))
    }
}

#[derive(Debug)]
struct DeltaRule;

#[derive(Debug, Clone)]
struct Kept<B: Backend> {
    inputs: [FloatTensor<B>; 3],
    documents: Documents<B>,
    heads: DeltaHeads,
}

impl<B: DeltaRuleOps> Backward<B, 3> for DeltaRule {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [qkv_node, decay_node, beta_node] = ops.parents;
        let dout = grads.consume::<B>(&ops.node);
        let Kept {
            inputs: [qkv, decay, beta],
            documents,
            heads,
        } = ops.state;
        let (to_qkv, to_decay, to_beta) = B::delta_rule_gradients(qkv, decay, beta, dout, documents, heads);
        for (node, gradient) in [(qkv_node, to_qkv), (decay_node, to_decay), (beta_node, to_beta)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
