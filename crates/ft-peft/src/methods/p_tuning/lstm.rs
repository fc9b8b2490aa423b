//! The bidirectional LSTM encoder (Hochreiter and Schmidhuber 1997), with PyTorch's order of gates and its two biases.
//!
//! ```text
//! i, f, g, o = x Wᵢₕᵀ + bᵢₕ + h Wₕₕᵀ + bₕₕ            W [4 h, ..]
//! c = σ(f) c + σ(i) tanh(g)      h = σ(o) tanh(c)
//! ```

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation, s};

use super::{Dense, Start, head, run};
use crate::pass::Pass;
use crate::target_module::AnyTensor;
use crate::virtual_tokens::{EMBEDDING, VirtualTokens, replace, uniform};

/// A table, a bidirectional LSTM over its rows and an MLP over what that gives.
#[derive(Module, Debug)]
pub struct Lstm {
    /// `[num_virtual_tokens, hidden]`.
    pub embedding: Param<Tensor<2>>,
    /// One direction after the other of each layer, forward first.
    pub lstm_head: Vec<Direction>,
    /// Two linear layers, with ReLU between them.
    pub mlp_head: Vec<Dense>,
    /// Share of what a layer but the last gives that is dropped in training.
    #[module(skip)]
    pub dropout: f64,
}

/// One direction of one layer.
#[derive(Module, Debug)]
pub struct Direction {
    /// `[4 h, in]`.
    pub weight_ih: Param<Tensor<2>>,
    /// `[4 h, h]`.
    pub weight_hh: Param<Tensor<2>>,
    /// `[4 h]`.
    pub bias_ih: Param<Tensor<1>>,
    /// `[4 h]`.
    pub bias_hh: Param<Tensor<1>>,
}

/// Numbers in the LSTM and its MLP.
pub(super) fn count(width: usize, hidden: usize, layers: usize) -> usize {
    let layer = |i: usize| 2 * 4 * hidden * (input(i, width, hidden) + hidden + 2);
    let mlp = mlp_shapes(width, hidden).map(Dense::count);
    (0..layers).map(layer).sum::<usize>() + mlp.iter().sum::<usize>()
}

/// Width of what layer `i` reads.
fn input(i: usize, width: usize, hidden: usize) -> usize {
    if i == 0 { width } else { 2 * hidden }
}

fn mlp_shapes(width: usize, hidden: usize) -> [[usize; 2]; 2] {
    [[2 * hidden, 2 * hidden], [width, 2 * hidden]]
}

/// PyTorch's name of a tensor of a direction: `weight_ih_l0_reverse`.
fn name(kind: &str, direction: usize) -> String {
    let reverse = if direction % 2 == 1 { "_reverse" } else { "" };
    format!("lstm_head.{kind}_l{}{reverse}", direction / 2)
}

impl Lstm {
    pub(super) fn start(start: &Start<'_>, layers: usize, dropout: f64) -> Self {
        let directions =
            (0..2 * layers).map(|at| Direction::start(start, at, input(at / 2, start.width, start.hidden)));
        let shapes = mlp_shapes(start.width, start.hidden).into_iter().enumerate();
        Self {
            embedding: start.table(),
            lstm_head: directions.collect(),
            mlp_head: shapes.map(|(i, shape)| start.dense(shape, &head(i))).collect(),
            dropout,
        }
    }

    /// x `[n, in]` to `[n, 2 h]`.
    fn recur(&self, mut x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let layers = self.lstm_head.chunks(2);
        let last = layers.len() - 1;
        for (i, pair) in layers.enumerate() {
            let directions = [pair[0].run(x.clone(), false), pair[1].run(x, true)];
            x = Tensor::cat(directions.to_vec(), 1);
            if let Some(seed) = pass.dropout_seed.filter(|_| self.dropout > 0.0 && i < last) {
                x = ft_kernels::dropout(x, self.dropout, ft_seed::sub_seed(seed, &name("dropout", 2 * i)));
            }
        }
        x
    }
}

impl Direction {
    /// All uniform in ±1/√h, as PyTorch starts them.
    fn start(start: &Start<'_>, at: usize, input: usize) -> Self {
        let (hidden, gates) = (start.hidden, 4 * start.hidden);
        let bound = 1.0 / (hidden as f32).sqrt();
        let (seed, device) = (start.seed, start.device);
        let matrix = |kind, cols| Param::from_tensor(uniform([gates, cols], bound, seed, &name(kind, at), device));
        let vector = |kind| Param::from_tensor(uniform([gates], bound, seed, &name(kind, at), device));
        Self {
            weight_ih: matrix("weight_ih", input),
            weight_hh: matrix("weight_hh", hidden),
            bias_ih: vector("bias_ih"),
            bias_hh: vector("bias_hh"),
        }
    }

    /// x `[n, in]` to the hidden states `[n, h]`, row by row from the first to the last, or back.
    fn run(&self, x: Tensor<2>, reverse: bool) -> Tensor<2> {
        let ([n, _], [_, hidden]) = (x.dims(), self.weight_hh.dims());
        let inputs =
            ft_kernels::linear(x, self.weight_ih.val()) + (self.bias_ih.val() + self.bias_hh.val()).unsqueeze();
        let device = inputs.device();
        let (mut h, mut c) = (Tensor::zeros([1, hidden], &device), Tensor::zeros([1, hidden], &device));
        let mut states = Vec::with_capacity(n);
        for step in 0..n {
            let row = if reverse { n - 1 - step } else { step };
            let gates = inputs.clone().narrow(0, row, 1) + ft_kernels::linear(h, self.weight_hh.val()); // [1, 4 h]
            let gate = |i: usize| gates.clone().slice(s![.., i * hidden..(i + 1) * hidden]);
            let (i, f, o) = (
                activation::sigmoid(gate(0)),
                activation::sigmoid(gate(1)),
                activation::sigmoid(gate(3)),
            );
            c = f * c + i * gate(2).tanh();
            h = o * c.clone().tanh();
            states.push(h.clone());
        }
        if reverse {
            states.reverse();
        }
        Tensor::cat(states, 0)
    }

    fn state(&self, at: usize) -> [(String, AnyTensor); 4] {
        [
            (name("weight_ih", at), AnyTensor::Matrix(self.weight_ih.val())),
            (name("weight_hh", at), AnyTensor::Matrix(self.weight_hh.val())),
            (name("bias_ih", at), AnyTensor::Vector(self.bias_ih.val())),
            (name("bias_hh", at), AnyTensor::Vector(self.bias_hh.val())),
        ]
    }

    fn load_state(&mut self, at: usize, tensor: &mut dyn FnMut(&str) -> AnyTensor) {
        replace(&mut self.weight_ih, tensor(&name("weight_ih", at)).into_matrix());
        replace(&mut self.weight_hh, tensor(&name("weight_hh", at)).into_matrix());
        replace(&mut self.bias_ih, tensor(&name("bias_ih", at)).into_vector());
        replace(&mut self.bias_hh, tensor(&name("bias_hh", at)).into_vector());
    }
}

impl VirtualTokens for Lstm {
    fn embeddings(&self, pass: &Pass) -> Tensor<2> {
        run(&self.mlp_head, self.recur(self.embedding.val(), pass))
    }

    fn is_encoded(&self) -> bool {
        true
    }

    fn state(&self) -> Vec<(String, AnyTensor)> {
        let table = (EMBEDDING.to_string(), AnyTensor::Matrix(self.embedding.val()));
        let lstm = self.lstm_head.iter().enumerate().flat_map(|(at, part)| part.state(at));
        let heads = self
            .mlp_head
            .iter()
            .enumerate()
            .flat_map(|(i, layer)| layer.state(&head(i)));
        std::iter::once(table).chain(lstm).chain(heads).collect()
    }

    fn load_state(&mut self, tensor: &mut dyn FnMut(&str) -> AnyTensor) {
        replace(&mut self.embedding, tensor(EMBEDDING).into_matrix());
        for (at, part) in self.lstm_head.iter_mut().enumerate() {
            part.load_state(at, tensor);
        }
        for (i, layer) in self.mlp_head.iter_mut().enumerate() {
            layer.load_state(&head(i), tensor);
        }
    }
}
