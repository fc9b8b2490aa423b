//! Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464): a gated delta rule behind a short convolution, in the place of attention.

use burn::module::Module;
use burn::tensor::activation::{log_sigmoid, sigmoid};
use burn::tensor::{FloatDType, Tensor};
use ft_kernels::{causal_conv, gated_delta_rule, gated_delta_rule_from};
use ft_peft::{Gates, Norm, Pass, Projection, TargetModule};
use ft_quant::Leaf;

use super::Shared;
use crate::block::DeltaConfig;
use crate::cache::{KvCache, State};
use crate::config::ModelConfig;
use crate::source::{Fill, Source, linear, rms_norm};

#[derive(Module, Debug)]
pub(crate) struct GatedDeltaNet {
    in_proj_qkv: Projection,
    in_proj_z: Projection,
    in_proj_b: Projection,
    in_proj_a: Projection,
    conv1d: Leaf<2>,
    gates: Gates,
    norm: Norm,
    out_proj: Projection,
}

impl GatedDeltaNet {
    pub fn build(at: &str, own: &DeltaConfig, config: &ModelConfig, source: &mut impl Source) -> Self {
        let (hidden, heads) = (config.hidden_size, own.heads);
        let part =
            |name: &str, rows: usize, source: &mut _| linear(&format!("{at}.{name}"), [rows, hidden], false, source);
        let gate = |name: &str, fill: Fill, source: &mut _| {
            Leaf::Frozen(Source::vector(source, &format!("{at}.{name}"), heads.value_heads, fill))
        };
        Self {
            in_proj_qkv: part("in_proj_qkv", heads.width(), source),
            in_proj_z: part("in_proj_z", heads.values(), source),
            in_proj_b: part("in_proj_b", heads.value_heads, source),
            in_proj_a: part("in_proj_a", heads.value_heads, source),
            conv1d: Leaf::Frozen(source.matrix(
                &format!("{at}.conv1d.weight"),
                [heads.width(), own.taps],
                Fill::Normal,
            )),
            gates: Gates {
                a_log: gate("A_log", Fill::LogUniform, source),
                dt_bias: gate("dt_bias", Fill::Ones, source),
            },
            norm: rms_norm(&format!("{at}.norm"), heads.value_dim, config.norm_eps, source),
            out_proj: linear(&format!("{at}.out_proj"), [hidden, heads.values()], false, source),
        }
    }

    /// x `[batch, seq, hidden]` to the same.
    pub fn forward(&self, x: Tensor<3>, index: usize, cache: Option<&mut KvCache>, shared: &Shared<'_>) -> Tensor<3> {
        let ([batch, seq, _], pass) = (x.dims(), shared.pass);
        let own = shared.config.block.linear(index).expect("a layer of linear attention");
        let qkv = self.in_proj_qkv.forward(x.clone(), pass);
        let z = self.in_proj_z.forward(x.clone(), pass);
        let [beta, decay] = self.weights(x, pass);
        let mixed = match cache {
            None => {
                let qkv = causal_conv(qkv, self.conv1d.val(), None, shared.documents.clone());
                gated_delta_rule(qkv, decay, beta, own.heads, shared.documents.clone())
            }
            Some(cache) => cache.go_on(index, [qkv, decay, beta], &|inputs, state| {
                self.step(inputs, state, own, shared)
            }),
        };
        let z = z.reshape([batch, seq, own.heads.value_heads, own.heads.value_dim]);
        let gated = ft_kernels::swiglu(z, self.norm.forward(mixed));
        self.out_proj
            .forward(gated.reshape([batch, seq, own.heads.values()]), pass)
    }

    /// How much of a column is written, and the logarithm of what the state keeps: `[batch, seq, value heads]` in f32.
    fn weights(&self, x: Tensor<3>, pass: &Pass) -> [Tensor<3>; 2] {
        let [b, a] = [&self.in_proj_b, &self.in_proj_a].map(|part| part.forward(x.clone(), pass).cast(FloatDType::F32));
        let [speed, bias] =
            [&self.gates.a_log, &self.gates.dt_bias].map(|leaf| leaf.val().cast(FloatDType::F32).unsqueeze::<3>());
        // softplus(x) = -ln sigmoid(-x)
        let decay = log_sigmoid((a + bias).neg()) * speed.exp();
        [sigmoid(b), decay]
    }

    /// Columns behind those of `state`: outputs `[batch, seq, value heads, value dim]`, and the state behind them.
    fn step(
        &self,
        [qkv, decay, beta]: [Tensor<3>; 3],
        state: Option<State>,
        own: &DeltaConfig,
        shared: &Shared<'_>,
    ) -> (Tensor<4>, State) {
        let ([batch, seq, width], past) = (qkv.dims(), own.taps - 1);
        let (history, held) = match state {
            None => (Tensor::zeros([batch, past, width], (&qkv.device(), qkv.dtype())), None),
            Some(state) => (state.history, Some(state.delta)),
        };
        let known = shared.documents.clone();
        let convolved = causal_conv(qkv.clone(), self.conv1d.val(), Some(history.clone()), known.clone());
        let (mixed, delta) = gated_delta_rule_from(held, convolved, decay, beta, own.heads, known);
        let history = match seq < past {
            true => Tensor::cat(vec![history.narrow(1, seq, past - seq), qkv], 1),
            // Its own memory: a view would hold that of the whole call.
            false => qkv.narrow(1, seq - past, past).mul_scalar(1.0),
        };
        (mixed, State { history, delta })
    }

    pub fn target_modules<'a>(&'a mut self, at: &str, modules: &mut Vec<TargetModule<'a>>) {
        let projections = [
            ("in_proj_qkv", &mut self.in_proj_qkv),
            ("in_proj_z", &mut self.in_proj_z),
            ("in_proj_b", &mut self.in_proj_b),
            ("in_proj_a", &mut self.in_proj_a),
            ("out_proj", &mut self.out_proj),
        ];
        modules.extend(projections.map(|(name, slot)| TargetModule::projection(format!("{at}.{name}"), slot)));
        modules.push(TargetModule::convolution(format!("{at}.conv1d"), &mut self.conv1d));
        modules.push(TargetModule::gates(at, &mut self.gates));
        modules.push(TargetModule::norm(format!("{at}.norm"), &mut self.norm));
    }
}
