//! One file per method; one line per method in each list here.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use ft_kernels::Output;
use ft_quant::Weight;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pass::Pass;
use crate::peft_config::Parse;

pub mod adalora;
pub mod bitfit;
pub mod bottleneck;
pub(crate) mod common;
pub mod dora;
pub mod full;
pub mod gralora;
pub mod ia3;
pub mod ln_tuning;
pub mod loha;
pub mod lokr;
pub mod lora;
pub mod miss;
pub mod oft;
pub mod osf;
pub mod p_tuning;
pub mod p_tuning_v2;
pub mod prefix_tuning;
pub mod prompt_tuning;
pub mod shira;
pub mod trainable_tokens;
mod traits;
pub mod vera;

pub use traits::{InTraining, PeftFile, PeftMethod};

macro_rules! methods {
    ($( $(#[$doc:meta])* $name:literal => $variant:ident($config:ty), )+) => {
        /// Section `[peft]`: which method, with its options.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "method")]
        pub enum PeftConfig {
            $( $(#[$doc])* #[serde(rename = $name)] $variant($config), )+
        }

        impl PeftConfig {
            /// The values of `peft.method`.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// A method with its default options, by its name.
            pub fn named(name: &str) -> Option<Self> {
                match name { $( $name => Some(Self::$variant(<$config>::default())), )+ _ => None }
            }

            /// The name used in `peft.method`.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$variant(_) => $name, )+ }
            }

            /// What the options mean.
            pub fn method(&self) -> &dyn PeftMethod {
                match self { $( Self::$variant(config) => config, )+ }
            }

            /// The same, to tell it what a run's plan knows.
            pub fn method_mut(&mut self) -> &mut dyn PeftMethod {
                match self { $( Self::$variant(config) => config, )+ }
            }
        }
    };
}

methods! {
    /// Low-rank adapters beside frozen projections.
    "lora" => Lora(lora::LoraConfig),
    /// Low-rank adapters that share a budget of ranks, which shrinks while they train.
    "adalora" => AdaLora(adalora::AdaLoraConfig),
    /// The checkpoint's own tensors train, all of them or a chosen part.
    "full" => Full(full::FullConfig),
    /// A trained scale on keys, values and the inside of feed-forward blocks.
    "ia3" => Ia3(ia3::Ia3Config),
    /// The normalizations train.
    "ln_tuning" => LnTuning(ln_tuning::LnTuningConfig),
    /// The biases train.
    "bitfit" => Bitfit(bitfit::BitfitConfig),
    /// The element-by-element product of two low-rank matrices beside frozen projections.
    "loha" => Loha(loha::LohaConfig),
    /// A Kronecker product beside frozen projections.
    "lokr" => Lokr(lokr::LokrConfig),
    /// A rotation of the input of frozen projections, block by block.
    "oft" => Oft(oft::OftConfig),
    /// A few entries of frozen matrices train, chosen at random.
    "shira" => Shira(shira::ShiraConfig),
    /// One small matrix for all shards of a frozen one's input.
    "miss" => Miss(miss::MissConfig),
    /// Low-rank adapters of the blocks of frozen projections.
    "gralora" => Gralora(gralora::GraloraConfig),
    /// The smaller singular directions of the matrices train, apart from the larger ones.
    "osf" => Osf(osf::OsfConfig),
    /// The embeddings of a few tokens train.
    "trainable_tokens" => TrainableTokens(trainable_tokens::TrainableTokensConfig),
    /// Two trained vectors around random projections that all modules share.
    "vera" => Vera(vera::VeraConfig),
    /// A bottleneck after the feed-forward block.
    "pfeiffer" => Pfeiffer(bottleneck::BottleneckConfig<bottleneck::Pfeiffer>),
    /// A bottleneck after attention and one after the feed-forward block.
    "houlsby" => Houlsby(bottleneck::BottleneckConfig<bottleneck::Houlsby>),
    /// A scaled bottleneck beside the feed-forward block.
    "parallel" => Parallel(bottleneck::BottleneckConfig<bottleneck::Parallel>),
    /// Learned keys and values before those of every layer.
    "prefix_tuning" => PrefixTuning(prefix_tuning::PrefixTuningConfig),
    /// Learned embeddings before the text.
    "prompt_tuning" => PromptTuning(prompt_tuning::PromptTuningConfig),
    /// Embeddings before the text that a learned encoder makes.
    "p_tuning" => PTuning(p_tuning::PTuningConfig),
    /// Prefix tuning without an encoder.
    "p_tuning_v2" => PTuningV2(p_tuning_v2::PTuningV2Config),
}

/// What reads PEFT's `adapter_config.json`, by `peft_type`.
pub(crate) const FROM_PEFT: &[(&str, Parse)] = &[
    ("ADALORA", adalora::file::parse),
    ("BITFIT", bitfit::parse),
    ("GRALORA", gralora::parse),
    ("IA3", ia3::parse),
    ("LN_TUNING", ln_tuning::parse),
    ("LOHA", loha::parse),
    ("LOKR", lokr::parse),
    ("LORA", lora::file::parse),
    ("MISS", miss::parse),
    ("OFT", oft::parse),
    ("OSF", osf::parse),
    ("PREFIX_TUNING", prefix_tuning::parse),
    ("PROMPT_TUNING", prompt_tuning::parse),
    ("P_TUNING", p_tuning::parse),
    ("SHIRA", shira::parse),
    ("TRAINABLE_TOKENS", trainable_tokens::parse),
    ("VERA", vera::parse),
];

impl Default for PeftConfig {
    fn default() -> Self {
        PeftConfig::Lora(lora::LoraConfig::default())
    }
}

/// The layer under a delta.
#[derive(Clone, Debug)]
pub struct Base<'a> {
    /// Its matrix, however it is stored.
    pub weight: &'a Weight,
    /// Its bias `[out]`.
    pub bias: Option<Tensor<1>>,
}

impl Base<'_> {
    /// The layer's own output, x `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_for(x, Output::Read)
    }

    /// [`forward`](Self::forward), whose values may be unread. For what the gradients of a method do not depend on.
    pub fn forward_for<const D: usize>(&self, x: Tensor<D>, output: Output) -> Tensor<D> {
        self.add_bias(self.weight.project_for(x, output))
    }

    /// `y + bias` for y `[.., out]`.
    pub fn add_bias<const D: usize>(&self, y: Tensor<D>) -> Tensor<D> {
        match &self.bias {
            None => y,
            Some(bias) => {
                let bias = bias.clone().cast(y.dtype());
                y + bias.unsqueeze()
            }
        }
    }
}

/// A trainable tensor of an adapter.
pub enum ParamMut<'a> {
    /// Rank 1.
    Vector(&'a mut Param<Tensor<1>>),
    /// Rank 2.
    Matrix(&'a mut Param<Tensor<2>>),
}

impl ParamMut<'_> {
    /// The values, read back from the device.
    pub fn data(&self) -> TensorData {
        match self {
            ParamMut::Vector(param) => param.val().into_data(),
            ParamMut::Matrix(param) => param.val().into_data(),
        }
    }
}

/// What a method adds to a projection.
pub trait WeightDelta: Clone {
    /// The adapted layer: x `[.., in]` to `[.., out]`.
    fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D>;

    /// The adapted matrix `[out, in]` and bias `[out]` in f32, for merging.
    fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>);

    /// Whether what it adds to a matrix is the same whatever the matrix is.
    fn is_additive(&self) -> bool {
        true
    }

    /// The trainable tensors, by their names in PEFT's file after the layer's path.
    fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)>;

    /// Constants that all modules share, by their names in PEFT's file after `base_model.`.
    fn shared(&mut self) -> Vec<(&'static str, &mut Tensor<2>)> {
        Vec::new()
    }

    /// Numbers that do not train and that PEFT's file holds for this layer, by their names after its path.
    fn constants(&self) -> &'static [&'static str] {
        &[]
    }

    /// Takes one of them in.
    ///
    /// # Errors
    /// What is wrong with it.
    fn set_constant(&mut self, _name: &str, _data: TensorData) -> Result<(), String> {
        Ok(())
    }

    /// Which of its rank-one parts the file holds, where a method takes some away.
    fn kept(&self) -> Option<Vec<bool>> {
        None
    }

    /// What PEFT's file holds for this layer.
    fn export(&self) -> Vec<(&'static str, TensorData)> {
        let mut copy = self.clone();
        copy.params()
            .into_iter()
            .map(|(name, param)| (name, param.data()))
            .collect()
    }
}

macro_rules! deltas {
    ($( $(#[$doc:meta])* $variant:ident($module:ty), )+) => {
        /// The adapter of a projection.
        #[derive(Module, Debug)]
        #[allow(clippy::large_enum_variant, reason = "handles of tensors, a few hundred slots in a model")]
        pub enum Delta {
            $( $(#[$doc])* $variant($module), )+
        }

        impl WeightDelta for Delta {
            fn forward<const D: usize>(&self, x: Tensor<D>, base: &Base<'_>, pass: &Pass) -> Tensor<D> {
                match self { $( Delta::$variant(delta) => delta.forward(x, base, pass), )+ }
            }

            fn fold(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
                match self { $( Delta::$variant(delta) => delta.fold(weight, bias), )+ }
            }

            fn is_additive(&self) -> bool {
                match self { $( Delta::$variant(delta) => delta.is_additive(), )+ }
            }

            fn params(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
                match self { $( Delta::$variant(delta) => delta.params(), )+ }
            }

            fn shared(&mut self) -> Vec<(&'static str, &mut Tensor<2>)> {
                match self { $( Delta::$variant(delta) => delta.shared(), )+ }
            }

            fn constants(&self) -> &'static [&'static str] {
                match self { $( Delta::$variant(delta) => delta.constants(), )+ }
            }

            fn set_constant(&mut self, name: &str, data: TensorData) -> Result<(), String> {
                match self { $( Delta::$variant(delta) => delta.set_constant(name, data), )+ }
            }

            fn kept(&self) -> Option<Vec<bool>> {
                match self { $( Delta::$variant(delta) => delta.kept(), )+ }
            }

            fn export(&self) -> Vec<(&'static str, TensorData)> {
                match self { $( Delta::$variant(delta) => delta.export(), )+ }
            }
        }
    };
}

deltas! {
    /// See [`adalora`].
    AdaLora(adalora::AdaLora),
    /// See [`dora`].
    Dora(dora::Dora),
    /// See [`gralora`].
    Gralora(gralora::Gralora),
    /// See [`ia3`].
    Ia3(ia3::Ia3),
    /// See [`loha`].
    Loha(loha::Loha),
    /// See [`lokr`].
    Lokr(lokr::Lokr),
    /// See [`lora`].
    Lora(lora::Lora),
    /// See [`lora::mixed`].
    Mixed(lora::mixed::Mixed),
    /// See [`miss`].
    Miss(miss::Miss),
    /// See [`oft`].
    Oft(oft::Oft),
    /// See [`osf`].
    Osf(osf::Osf),
    /// See [`shira`].
    Shira(shira::Shira),
    /// See [`vera`].
    Vera(vera::Vera),
}
