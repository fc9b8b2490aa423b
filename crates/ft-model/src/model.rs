use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, FloatDType, Int, Tensor};
use ft_peft::{Adaptable, ModuleSlot, Pass, Projection, TargetModule, TaskHead};
use ft_quant::{Layout, Scheme};

use crate::cache::KvCache;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::families::Decoder;
use crate::heads::Head;
use crate::loader::{LoadDtype, Loader, held_as};
use crate::masked_head::{MaskedHead, MaskedNames};
use crate::quantized;
use crate::random::{Drawn, Random};
use crate::rows::Rows;
use crate::source::{Source, linear};
use crate::virtual_tokens::behind;

/// Checkpoint path of the output head in every family of decoders.
pub(crate) const HEAD: &str = "lm_head";

/// A decoder-only language model of any supported family, or an encoder.
#[derive(Module, Debug)]
pub struct Model {
    pub(crate) decoder: Decoder,
    /// `None` while the head is the embedding table.
    pub(crate) lm_head: Option<Projection>,
    /// Before the output head of an encoder that fills in masked tokens.
    pub(crate) masked_head: Option<MaskedHead>,
    /// In the place of the output head.
    pub(crate) task_head: Option<Head>,
    /// Maps to another model's width, `[other width, own width]`.
    pub(crate) hidden_projections: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    config: ModelConfig,
}

impl Model {
    /// Loads a checkpoint folder, every tensor frozen. Layers that bitsandbytes quantized stay in their codes.
    pub fn load(dir: &Path, dtype: LoadDtype, device: &Device) -> Result<Self> {
        Self::load_quantized(dir, dtype, None, device)
    }

    /// [`load`](Self::load), with the projections quantized while they are read, one at a time: no more than one of them is
    /// in memory unpacked. Embeddings, norms and the output head are not quantized. A checkpoint that is stored in `scheme`
    /// already is read as it is.
    pub fn load_quantized(dir: &Path, dtype: LoadDtype, scheme: Option<Scheme>, device: &Device) -> Result<Self> {
        Self::load_configured(ModelConfig::from_dir(dir)?, dir, dtype, scheme, None, device)
    }

    /// [`load_quantized`](Self::load_quantized) as `config` says, which is that of `dir` but for the head. Tensors of the head that the
    /// checkpoint does not hold are drawn from the seed `fresh`, where one is given.
    pub fn load_configured(
        config: ModelConfig,
        dir: &Path,
        dtype: LoadDtype,
        scheme: Option<Scheme>,
        fresh: Option<u64>,
        device: &Device,
    ) -> Result<Self> {
        if let Some(scheme) = scheme {
            quantized::check_quantizable(&config, scheme, dir)?;
        }
        let checkpoint = Checkpoint::open(dir)?;
        let config = config.held_by(&checkpoint);
        let mut loader = Loader::new(&checkpoint, &config, dtype, fresh, device);
        if let Some(scheme) = scheme {
            loader = loader.quantized(scheme);
        }
        let model = Self::build(config, &mut loader);
        loader.finish()?;
        Ok(model)
    }

    /// A model with random values, every tensor frozen: matrices are normal with the deviation that `config.json` calls
    /// `initializer_range`.
    pub fn init(config: &ModelConfig, seed: u64, device: &Device) -> Self {
        Self::init_quantized(config, seed, None, device)
    }

    /// [`init`](Self::init), with the projections quantized once they are drawn: to measure with.
    ///
    /// # Panics
    /// If the scheme is none that [`Scheme::check`] lets pass.
    pub fn init_quantized(config: &ModelConfig, seed: u64, scheme: Option<Scheme>, device: &Device) -> Self {
        let random = Random::new(seed, config.initializer_range(), device);
        Self::build(config.clone(), &mut random.quantized(scheme))
    }

    /// A random model to measure with: drawn on the device, held in `dtype`, the projections quantized where a scheme is given. It
    /// takes no memory of the host; its values are others on every device.
    ///
    /// # Panics
    /// If the scheme is none that [`Scheme::check`] lets pass.
    pub fn drawn(config: &ModelConfig, dtype: FloatDType, scheme: Option<Scheme>, device: &Device) -> Self {
        let dtype = held_as(dtype.into(), device);
        let mut drawn = Drawn::new(config.initializer_range(), dtype, scheme, device);
        Self::build(config.clone(), &mut drawn)
    }

    pub(crate) fn build(config: ModelConfig, source: &mut impl Source) -> Self {
        let decoder = Decoder::build(&config, source);
        let shape = [config.vocab_size, config.hidden_size];
        let masked = config.masked_names();
        let masked_head = masked.map(|names| MaskedHead::build(names, &config, source));
        let predicts = config.writes() || masked.is_some();
        let own_head = predicts && !config.tie_word_embeddings;
        let bias = masked.is_some_and(MaskedNames::is_one_layer);
        let lm_head = own_head.then(|| linear(config.head_path(), shape, bias, source));
        let task_head = config.head.as_ref().map(|head| Head::build(head, &config, source));
        Self {
            decoder,
            lm_head,
            masked_head,
            task_head,
            hidden_projections: Vec::new(),
            config,
        }
    }

    /// The same model with activations of type `dtype`, whatever the weights are stored in: they are widened or rounded where
    /// they are multiplied. Norms, softmax, adapters and the loss are computed in f32.
    pub fn computing_in(mut self, dtype: FloatDType) -> Self {
        for module in self.target_modules() {
            if let ModuleSlot::Embedding(slot) = module.slot {
                slot.compute = Some(dtype);
            }
        }
        self
    }

    /// Type of the activations: that of the embeddings where [`computing_in`](Self::computing_in) says nothing.
    pub fn compute(&self) -> FloatDType {
        let slot = self.decoder.embeddings();
        slot.compute.unwrap_or_else(|| slot.weight.val().dtype().into())
    }

    /// The type that suits the model's device: f32 on the CPU, which has no fast path for less; elsewhere that of the
    /// embeddings if the device computes in it, else f16, else f32.
    pub fn suited_compute(&self, cpu: bool) -> FloatDType {
        let (own, device) = (self.compute(), self.device());
        let mut types = [own, FloatDType::F16].into_iter();
        match cpu || own == FloatDType::F32 {
            true => FloatDType::F32,
            false => types
                .find(|dtype| device.supports_dtype(*dtype))
                .unwrap_or(FloatDType::F32),
        }
    }

    /// The same under another configuration, which the layers must fit.
    pub(crate) fn configured(self, config: ModelConfig) -> Self {
        Self { config, ..self }
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Columns that an adapter puts before every text.
    pub fn virtual_tokens(&self) -> usize {
        self.prompt() + self.decoder.prefixes().virtual_tokens()
    }

    /// Positions that are left for text, in tokens.
    pub fn positions(&self) -> usize {
        self.config
            .max_position_embeddings
            .saturating_sub(self.virtual_tokens())
    }

    /// Whether the output head is the embedding table.
    pub fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    /// The device that holds the model.
    pub fn device(&self) -> Device {
        self.decoder.embeddings().weight.val().device()
    }

    /// Hidden states after the final norm, `[batch, seq, hidden]`, for ids `[batch, seq]`. With a cache, the columns
    /// continue those it holds, and it takes them in.
    pub fn forward(&self, ids: Tensor<2, Int>, rows: &Rows, mut cache: Option<&mut KvCache>, pass: &Pass) -> Tensor<3> {
        let [_, seq] = ids.dims();
        let offset = cache.as_ref().map_or(0, |c| c.len());
        let hidden = self.decoder.embed(ids, &self.config, rows, offset, pass);
        let [_, columns, _] = hidden.dims();
        // A cache holds the prompt already.
        let prompt = if columns == seq { 0 } else { self.prompt() };
        let (blocks, inner) = (0..self.num_blocks(), rows.behind_prompts(prompt));
        let hidden = self
            .decoder
            .blocks(blocks, hidden, &self.config, &inner, cache.as_deref_mut(), pass);
        if let Some(cache) = cache {
            cache.advance(columns);
        }
        self.decoder.norm(behind(prompt, hidden, rows), &self.config)
    }

    /// Blocks between [`embed`](Self::embed) and [`norm`](Self::norm): what can be computed again piece by piece.
    pub fn num_blocks(&self) -> usize {
        self.config.num_hidden_layers
    }

    /// Columns of a prompt among the embeddings.
    pub(crate) fn prompt(&self) -> usize {
        self.decoder.embeddings().virtual_tokens()
    }

    /// Input of the first block, `[batch, n + seq, hidden]` with the n columns of a prompt; where rows are packed, of as many prompts as
    /// a row has documents.
    pub fn embed(&self, ids: Tensor<2, Int>, rows: &Rows, pass: &Pass) -> Tensor<3> {
        self.decoder.embed(ids, &self.config, rows, 0, pass)
    }

    /// The blocks `range` in turn, `[batch, seq, hidden]` to the same. It depends on its arguments alone, dropout included:
    /// called twice, it gives the same numbers twice. Where the pass says that the output is unread, only its
    /// gradients are right. `forward` is `embed`, `blocks(0..num_blocks())`, `norm`.
    pub fn blocks(&self, range: Range<usize>, hidden: Tensor<3>, rows: &Rows, pass: &Pass) -> Tensor<3> {
        let rows = rows.behind_prompts(self.prompt());
        self.decoder.blocks(range, hidden, &self.config, &rows, None, pass)
    }

    /// The text's columns of the hidden states between two blocks: `[batch, n + seq, hidden]` to `[batch, seq, hidden]`.
    pub fn without_prompt(&self, hidden: Tensor<3>, rows: &Rows) -> Tensor<3> {
        behind(self.prompt(), hidden, rows)
    }

    /// The norm after the last block, of the text's columns: `[batch, n + seq, hidden]` to `[batch, seq, hidden]`.
    pub fn norm(&self, hidden: Tensor<3>, rows: &Rows) -> Tensor<3> {
        self.decoder.norm(self.without_prompt(hidden, rows), &self.config)
    }

    /// Whether anything trains that is held neither by `block` and those after it nor by what follows them: if nothing does,
    /// no gradient to the input of `block` is needed.
    pub fn trains_before(&self, block: usize) -> bool {
        let head = self.lm_head.as_ref().map_or(0, |head| head.num_params());
        let beside = self.hidden_projections.num_params();
        let beside = beside + self.task_head.num_params() + self.masked_head.num_params();
        self.num_params() > self.decoder.num_params_from(block) + head + beside
    }

    /// The parameters that the embeddings and the blocks before `block` use: a backward pass that has come down to `block` will
    /// still give them gradients. A tied head is among them.
    pub fn params_before(&self, block: usize) -> HashSet<ParamId> {
        self.decoder.params_before(block).into_iter().collect()
    }
}

impl Adaptable for Model {
    fn target_modules(&mut self) -> Vec<TargetModule<'_>> {
        let mut modules = self.decoder.target_modules(&self.config);
        if let (Some(head), Some(names)) = (&mut self.masked_head, self.config.masked_names()) {
            modules.extend(head.target_modules(names));
        }
        let path = self.config.head_path();
        modules.extend(self.lm_head.as_mut().map(|head| TargetModule::projection(path, head)));
        if let (Some(head), Some(own)) = (&mut self.task_head, &self.config.head) {
            modules.extend(head.target_modules(self.config.head_layers(own.kind)));
        }
        modules
    }

    fn head_path(&self) -> &str {
        self.config.head_path()
    }

    fn writes(&self) -> bool {
        self.config.writes()
    }

    fn task_head(&self) -> Option<TaskHead> {
        self.config.task_head()
    }

    fn normalizes_behind(&self) -> bool {
        self.config
            .encoder
            .as_ref()
            .is_some_and(|encoder| encoder.names.is_some())
    }

    fn architecture(&self) -> (&str, &str) {
        let named = self.config.raw.get("architectures").and_then(|names| names[0].as_str());
        let class = named.filter(|_| self.config.head.is_some());
        (&self.config.model_type, class.unwrap_or_else(|| self.config.class()))
    }

    fn untie_head(&mut self) {
        if self.lm_head.is_none() {
            let table = self.decoder.embeddings().weight.val().detach();
            let bias = self.masked_head.as_mut().and_then(MaskedHead::give_bias_of_one_layer);
            self.lm_head = Some(Projection::new(table, Layout::OutIn, bias));
        }
    }
}
