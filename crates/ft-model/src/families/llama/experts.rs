//! Experts in the place of the feed-forward network (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088):
//!
//! ```text
//! p = softmax(x Wᵀ)     y = Σ over the k largest p_e of p_e · expert_e(x)     p of those k divided by their sum, where the family says so
//! ```
//!
//! Tokens are sorted by expert, so that each expert computes its own tokens alone, in one product.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData, activation};
use ft_kernels::Output;
use ft_peft::{Pass, Projection, TargetModule};
use ft_quant::{Layout, Weight};

use super::mlp::Mlp;
use crate::block::{Activation, ExpertsConfig};
use crate::config::ModelConfig;
use crate::routing;
use crate::source::{Fill, Source, projection};

#[derive(Module, Debug)]
pub(crate) struct Experts {
    /// The router.
    gate: Projection,
    experts: Vec<Mlp>,
    /// One, or none. On the heap, as Burn has no boxed modules: layers without experts are as large as those with them.
    shared: Vec<Shared>,
}

/// Computes every token, times a gate of its own.
#[derive(Module, Debug)]
struct Shared {
    expert: Mlp,
    gate: Projection,
}

impl Experts {
    pub fn build(at: &str, own: &ExpertsConfig, config: &ModelConfig, source: &mut impl Source) -> Self {
        let (hidden, (_, names)) = (config.hidden_size, own.stored());
        let router = format!("{at}.{}", own.router);
        let weight = source.matrix(&format!("{router}.weight"), [own.count, hidden], Fill::Normal);
        let bias = own
            .stacked
            .then(|| source.vector(&format!("{router}.bias"), own.count, Fill::Zeros));
        let expert = |e: usize, source: &mut _| {
            let at = format!("{at}.experts.{e}");
            match own.stacked {
                true => Mlp::of_stack(&at, own.inner, names, hidden, source),
                false => Mlp::build(&at, own.inner, names, [false, own.fused], hidden, source),
            }
        };
        Self {
            gate: routing_layer(projection(Weight::new(weight, Layout::OutIn), bias)),
            experts: (0..own.count).map(|e| expert(e, source)).collect(),
            shared: own
                .shared
                .into_iter()
                .map(|inner| Shared {
                    expert: Mlp::build(&format!("{at}.shared_expert"), inner, names, [false; 2], hidden, source),
                    gate: {
                        let gate = source.matrix(&format!("{at}.shared_expert_gate.weight"), [1, hidden], Fill::Normal);
                        routing_layer(projection(Weight::new(gate, Layout::OutIn), None))
                    },
                })
                .collect(),
        }
    }

    /// x `[batch, seq, hidden]` to the same.
    pub fn forward(&self, x: Tensor<3>, index: usize, config: &ModelConfig, pass: &Pass) -> Tensor<3> {
        let (own, activation) = (config.block.experts(), config.block.activation);
        let ([batch, seq, hidden], pass) = (x.dims(), &pass.with_output(Output::Read));
        let x = x.reshape([batch * seq, hidden]);
        let scores = activation::softmax(self.gate.forward(x.clone(), pass).cast(FloatDType::F32), 1); // [tokens, experts]
        let routes = Routes::of(&scores, own.per_token, self.idle_rows(&scores));
        routing::note(index, &scores, &routes.chosen, own.per_token);
        let device = x.device();
        let weights = scores.gather(1, ints(&routes.chosen, [batch * seq, own.per_token], &device)); // [tokens, k]
        let weights = match own.normalized {
            true => weights.clone() / weights.sum_dim(1),
            false => weights,
        };
        let sorted = x.clone().select(0, ints(&routes.rows, [routes.rows.len()], &device));
        let outputs = self.over(sorted, &routes.sizes, 0..own.count, activation, pass);
        let outputs = outputs.select(0, ints(&routes.slots, [routes.slots.len()], &device));
        let outputs = outputs.reshape([batch * seq, own.per_token, hidden]);
        let weights: Tensor<3> = weights.cast(FloatDType::from(outputs.dtype())).unsqueeze_dim(2);
        let routed = (outputs * weights).sum_dim(1).reshape([batch, seq, hidden]);
        match self.shared.first() {
            Some(Shared { expert, gate }) => {
                let share = activation::sigmoid(gate.forward(x.clone(), pass));
                let output = expert.forward(x.unsqueeze_dim(0), activation, pass).squeeze_dim::<2>(0) * share;
                routed + output.reshape([batch, seq, hidden])
            }
            None => routed,
        }
    }

    /// Experts `range` over rows `[n, hidden]` that are sorted by expert. Halves of halves, so that the gradient of a part is written into
    /// twice its size and not into that of the whole.
    fn over(
        &self,
        x: Tensor<2>,
        sizes: &[usize],
        range: Range<usize>,
        activation: Activation,
        pass: &Pass,
    ) -> Tensor<2> {
        if range.len() == 1 {
            let expert = &self.experts[range.start];
            return expert.forward(x.unsqueeze_dim(0), activation, pass).squeeze_dim(0);
        }
        let middle = range.start.midpoint(range.end);
        let (first, rest) = (range.start..middle, middle..range.end);
        let count = |range: &Range<usize>| sizes[range.clone()].iter().sum::<usize>();
        match (count(&first), count(&rest)) {
            (_, 0) => self.over(x, sizes, first, activation, pass),
            (0, _) => self.over(x, sizes, rest, activation, pass),
            (n, m) => {
                let left = self.over(x.clone().narrow(0, 0, n), sizes, first, activation, pass);
                let right = self.over(x.narrow(0, n, m), sizes, rest, activation, pass);
                Tensor::cat(vec![left, right], 0)
            }
        }
    }

    /// The experts that train: where no token goes to one, a row that nobody reads gives it gradients of zero, as an optimizer needs that
    /// keeps moments.
    fn idle_rows(&self, scores: &Tensor<2>) -> Vec<bool> {
        let trains = |expert: &Mlp| scores.is_autodiff() && expert.num_params() > 0;
        self.experts.iter().map(trains).collect()
    }

    pub fn target_modules<'a>(&'a mut self, at: &str, own: &ExpertsConfig, modules: &mut Vec<TargetModule<'a>>) {
        modules.push(TargetModule::projection(format!("{at}.{}", own.router), &mut self.gate));
        for (e, expert) in self.experts.iter_mut().enumerate() {
            expert.target_modules(&format!("{at}.experts.{e}"), &own.names, modules);
        }
        for Shared { expert, gate } in &mut self.shared {
            expert.target_modules(&format!("{at}.shared_expert"), &own.names, modules);
            modules.push(TargetModule::projection(format!("{at}.shared_expert_gate"), gate));
        }
    }
}

/// A layer that says how much of something there is.
fn routing_layer(layer: Projection) -> Projection {
    Projection { routes: true, ..layer }
}

fn ints<const D: usize>(values: &[i32], shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// Which tokens go where.
#[derive(Debug, PartialEq)]
struct Routes {
    /// The experts of each token, the likeliest first. `[tokens · k]`
    chosen: Vec<i32>,
    /// The tokens of each expert, expert by expert.
    rows: Vec<i32>,
    /// How many of them each has.
    sizes: Vec<usize>,
    /// Where among them each choice is. `[tokens · k]`
    slots: Vec<i32>,
}

impl Routes {
    /// Of scores `[tokens, experts]`; `idle` experts get a row even where none is theirs.
    fn of(scores: &Tensor<2>, per_token: usize, idle: Vec<bool>) -> Self {
        let [_, experts] = scores.dims();
        let data = scores.clone().without_autodiff().into_data().convert_dtype(DType::F32);
        let values: Vec<f32> = data.iter().collect();
        let mut order: Vec<usize> = Vec::with_capacity(experts);
        let mut chosen = Vec::with_capacity(values.len() / experts * per_token);
        for row in values.chunks_exact(experts) {
            order.clear();
            order.extend(0..experts);
            // Of equal ones the first, whatever else there is.
            let likelier = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
            if per_token < experts {
                order.select_nth_unstable_by(per_token, likelier);
            }
            order[..per_token].sort_unstable_by(likelier);
            chosen.extend(order[..per_token].iter().map(|e| *e as i32));
        }
        Self::sorted(chosen, per_token, idle)
    }

    fn sorted(chosen: Vec<i32>, per_token: usize, idle: Vec<bool>) -> Self {
        let mut sizes = vec![0; idle.len()];
        chosen.iter().for_each(|e| sizes[*e as usize] += 1);
        for (size, idle) in sizes.iter_mut().zip(idle) {
            *size = (*size).max(usize::from(idle));
        }
        let mut starts: Vec<usize> = Vec::with_capacity(sizes.len());
        let mut total = 0;
        for size in &sizes {
            starts.push(total);
            total += size;
        }
        let mut rows = vec![0; total];
        let slots = chosen.iter().enumerate().map(|(choice, e)| {
            let slot = starts[*e as usize];
            starts[*e as usize] += 1;
            rows[slot] = (choice / per_token) as i32;
            slot as i32
        });
        let slots = slots.collect();
        Self {
            chosen,
            rows,
            sizes,
            slots,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_sorted_by_expert_and_found_again() {
        let scores = Tensor::<2>::from_floats([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.7, 0.1]], &Device::flex());
        let routes = Routes::of(&scores, 2, vec![false; 3]);
        assert_eq!(routes.chosen, [1, 2, 2, 0, 1, 0]);
        assert_eq!(routes.sizes, [2, 2, 2]);
        assert_eq!(routes.rows, [1, 2, 0, 2, 0, 1]);
        assert_eq!(routes.slots, [2, 4, 5, 0, 3, 1]);
    }

    #[test]
    fn an_expert_that_trains_has_a_row_that_nobody_reads() {
        let routes = Routes::sorted(vec![2, 2], 1, vec![true, false, true]);
        assert_eq!(
            (routes.sizes, routes.rows, routes.slots),
            (vec![1, 0, 2], vec![0, 0, 1], vec![1, 2])
        );
    }
}
