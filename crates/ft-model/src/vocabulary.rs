//! From hidden states to tokens: logits, and the likelihood of targets without them.

use burn::tensor::{FloatDType, Int, Tensor, activation};
use ft_kernels::{Head, soft_cap};
use ft_peft::methods::trainable_tokens::TrainableTokens;
use ft_peft::{EmbeddingDelta, Pass, WeightDelta};

use crate::model::Model;

impl Model {
    /// hidden `[batch, seq, hidden]` to logits `[batch, seq, vocab]` in f32.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let hidden = self.before_vocabulary(hidden);
        let logits = match &self.lm_head {
            Some(head) => head.forward(hidden, &Pass::eval()),
            None => {
                let logits = ft_kernels::linear(hidden.clone(), self.decoder.embeddings().weight.val());
                match self.tied_tokens() {
                    None => logits,
                    Some(tokens) => tokens.logits(hidden, logits),
                }
            }
        };
        let logits = logits.cast(FloatDType::F32);
        let logits = match self.vocabulary_bias() {
            None => logits,
            Some(bias) => logits + bias.cast(FloatDType::F32).unsqueeze(),
        };
        soft_cap(logits, self.config().block.logit_cap)
    }

    /// Sum over rows of the negative log-likelihood in nats, `[1]`; hidden `[n, hidden]`, targets `[n]`. Targets spread
    /// `smoothing` of their weight over the whole vocabulary, as torch's `label_smoothing` does; 0 is plain.
    pub fn nll_sum(&self, hidden: Tensor<2>, targets: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
        if self.is_more_than_a_product() {
            let (hidden, head) = self.head_product(hidden);
            return ft_kernels::smoothed_cross_entropy(hidden, head, targets, smoothing);
        }
        if let Some(tokens) = self.tied_tokens() {
            return tokens.nll_sum(hidden, self.decoder.embeddings().weight.val(), targets, smoothing);
        }
        if let Some(head) = self.head_matrix() {
            return ft_kernels::smoothed_cross_entropy(hidden, head, targets, smoothing);
        }
        let logits = self.logits(hidden.unsqueeze_dim(0)).squeeze_dim::<2>(0);
        let log_probs = activation::log_softmax(logits, 1); // [n, vocab]
        let picked = log_probs.clone().gather(1, targets.unsqueeze_dim(1)).sum();
        if smoothing == 0.0 {
            return picked.neg();
        }
        let spread = log_probs.mean_dim(1).sum();
        (picked.mul_scalar(1.0 - smoothing) + spread.mul_scalar(smoothing)).neg()
    }

    /// Negative log-likelihood of each row in nats, `[n]`; with its gradients where the model trains.
    pub fn token_nll(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        if self.is_more_than_a_product() {
            let (hidden, head) = self.head_product(hidden);
            return ft_kernels::cross_entropy_rows(hidden, head, targets);
        }
        if let Some(tokens) = self.tied_tokens() {
            return tokens.token_nll(hidden, self.decoder.embeddings().weight.val(), targets);
        }
        match self.head_matrix() {
            Some(head) => ft_kernels::cross_entropy_rows(hidden, head, targets),
            None => self.adapted_nll(hidden, targets),
        }
    }

    /// Whether logits are bounded, or something lies before the output head.
    fn is_more_than_a_product(&self) -> bool {
        self.masked_head.is_some() || self.config().block.logit_cap.is_some()
    }

    /// Hidden states `[n, d]` and a matrix `[vocab, d]` whose product is the logits, both with what trains in them, and their bound. Where the head is
    /// more than a matrix (an adapter, a bias, rows that train in a tied table), this is W + dW, the bias as a column.
    pub fn head_product(&self, hidden: Tensor<2>) -> (Tensor<2>, Head) {
        let hidden = self.before_vocabulary(hidden);
        let (weight, bias) = match &self.lm_head {
            None => {
                let table = self.decoder.embeddings().weight.val();
                let table = match self.tied_tokens() {
                    None => table,
                    Some(tokens) => tokens.trained_table(table),
                };
                (table, None)
            }
            Some(head) => {
                let (weight, bias) = (head.weight.dense(), head.bias.as_ref().map(|bias| bias.val()));
                match &head.delta {
                    Some(delta) => delta.fold(weight, bias),
                    None => (weight, bias),
                }
            }
        };
        let (hidden, weight) = match bias.or_else(|| self.vocabulary_bias()) {
            None => (hidden, weight),
            Some(bias) => {
                let ones = Tensor::ones([hidden.dims()[0], 1], (&hidden.device(), hidden.dtype()));
                let column = bias.cast(FloatDType::from(weight.dtype())).unsqueeze_dim(1);
                (Tensor::cat(vec![hidden, ones], 1), Tensor::cat(vec![weight, column], 1))
            }
        };
        let cap = self.config().block.logit_cap;
        (hidden, Head { weight, cap })
    }

    /// What the vocabulary is multiplied with, from hidden states `[.., hidden]`: these themselves, unless the model fills in masked
    /// tokens.
    fn before_vocabulary<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        match &self.masked_head {
            None => hidden,
            Some(head) => head.forward(hidden),
        }
    }

    /// A bias of the vocabulary that stands beside the output head.
    fn vocabulary_bias(&self) -> Option<Tensor<1>> {
        Some(self.masked_head.as_ref()?.bias.as_ref()?.val())
    }

    /// The head as one matrix `[vocab, hidden]`, unless an adapter sits on it.
    fn head_matrix(&self) -> Option<Tensor<2>> {
        match &self.lm_head {
            None => {
                let table = self.decoder.embeddings().weight.val();
                Some(match self.tied_tokens() {
                    None => table,
                    Some(tokens) => tokens.table(table),
                })
            }
            Some(head) if head.delta.is_none() && head.bias.is_none() => Some(head.weight.dense()),
            Some(_) => None,
        }
    }

    /// The rows that train in the table, where the head is that table.
    fn tied_tokens(&self) -> Option<&TrainableTokens> {
        match &self.decoder.embeddings().delta {
            Some(EmbeddingDelta::Tokens(tokens)) if self.lm_head.is_none() => Some(tokens),
            _ => None,
        }
    }

    /// Cross-entropy through an adapted head: holds `[n, vocab]`.
    fn adapted_nll(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        let logits = self.logits(hidden.unsqueeze_dim(0)).squeeze_dim::<2>(0);
        let picked = activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1));
        picked.squeeze_dim::<1>(1).neg()
    }
}
