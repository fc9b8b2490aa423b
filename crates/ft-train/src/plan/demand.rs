//! What one training step needs beside weights and states, moment by moment.
//!
//! ```text
//! everything kept   forward ── loss ── backward:  what blocks kept goes, gradients come
//! checkpointing     forward without a tape, inputs kept ── loss ── per segment: forward again, backward
//! ```
//!
//! Gradients and activations are not at their most together, so each moment is counted and the largest one counts.

use std::collections::HashMap;

use ft_model::{BlockActivations, ModelConfig};
use ft_peft::{Attached, Kind, PeftConfig, SavedActivations};

use crate::config::Checkpointing;

/// Gradients are f32, and activations where they have not 16 bits.
const FLOAT: u64 = 4;

/// What a step's memory depends on, beside the size of the batch.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    model: &'a ModelConfig,
    /// What every adapted or trained module keeps, by path.
    trains: HashMap<String, SavedActivations>,
    /// Trainable numbers.
    numbers: u64,
    /// The embedding table trains.
    table: bool,
    /// The matrix of the output head trains.
    head: bool,
    /// The head is the embedding table, which trains.
    tied: bool,
    /// An adapter sits on the output head.
    adapted_head: bool,
    /// Rows of a table that is the output head, too, train, or a bias stands beside it: the loss is computed with a copy that holds them.
    new_rows: bool,
    /// Activations have 16 bits.
    pub half: bool,
    /// What the backward pass finds.
    pub checkpointing: Checkpointing,
    /// Gradients are used as soon as they are there.
    pub in_backward: bool,
    /// Gradients of several micro-batches are summed.
    pub accumulates: bool,
    /// Vocabularies of the models whose logits distillation holds at a time: the student's, and that of a teacher which is asked at
    /// every step. 0 is none.
    pub distills: [usize; 2],
}

/// Bytes at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Gradients of what trains.
    pub gradients: u64,
    /// BlockActivations and passing activations.
    pub activations: u64,
    /// Logits.
    pub logits: u64,
}

impl Moment {
    fn total(&self) -> u64 {
        self.gradients + self.activations + self.logits
    }
}

impl<'a> Demand<'a> {
    /// Of a method on a model, with `numbers` that train in all.
    pub fn new(model: &'a ModelConfig, peft: &PeftConfig, attached: &Attached, numbers: usize) -> Self {
        let choice = &attached.choice;
        let specs = model.module_specs();
        let whole = |path: &String| choice.whole.contains(path);
        let mut trains = HashMap::new();
        for spec in &specs {
            let keeps = match () {
                () if choice.adapted.contains(&spec.path) => peft.method().saved_at(spec),
                () if whole(&spec.path) && spec.kind == Kind::Linear => SavedActivations::input(),
                () if whole(&spec.path) || choice.biases.contains(&spec.path) => SavedActivations::default(),
                () if choice.rows.contains(&spec.path) => SavedActivations::default(),
                () => continue,
            };
            trains.insert(spec.path.clone(), keeps);
        }
        let has = |kind: Kind, list: &[String]| specs.iter().any(|p| p.kind == kind && list.contains(&p.path));
        let is_head = |kind: Kind| matches!(kind, Kind::Head | Kind::TiedHead);
        let head = |list: &[String]| specs.iter().any(|p| is_head(p.kind) && list.contains(&p.path));
        let table = has(Kind::Embedding, &choice.whole);
        let tied = model.tie_word_embeddings && !head(&choice.whole);
        Self {
            model,
            trains,
            numbers: numbers as u64,
            table,
            head: head(&choice.whole) || (tied && table),
            tied: tied && table,
            adapted_head: head(&choice.adapted),
            new_rows: tied && (has(Kind::Embedding, &choice.rows) || model.fills_masks()),
            half: false,
            checkpointing: Checkpointing::Off,
            in_backward: false,
            accumulates: false,
            distills: [0, 0],
        }
    }

    /// Bytes that the blocks and the final norm keep for `tokens` tokens when everything is kept.
    pub fn kept(&self, tokens: usize) -> u64 {
        self.blocks()
            .iter()
            .map(|kept| self.kept_bytes(kept, tokens))
            .sum::<u64>()
            + self.ends(tokens)
    }

    /// The largest moment of a step whose micro-batches have `rows` samples of `width` tokens.
    pub fn peak(&self, rows: usize, width: usize) -> Moment {
        let tokens = rows * width;
        let moments = match self.checkpointing {
            Checkpointing::Off => self.keeping_all(tokens),
            Checkpointing::Every(blocks) => self.keeping_inputs(tokens, blocks),
        };
        let before = if self.accumulates { FLOAT * self.numbers } else { 0 };
        let largest = moments.into_iter().max_by_key(Moment::total).unwrap_or_default();
        Moment {
            gradients: before + largest.gradients,
            ..largest
        }
    }

    fn keeping_all(&self, tokens: usize) -> Vec<Moment> {
        let blocks = self.blocks();
        let kept: u64 = blocks.iter().map(|kept| self.kept_bytes(kept, tokens)).sum();
        vec![
            self.loss(tokens, kept + self.ends(tokens)),
            Moment {
                gradients: self.head_gradient(),
                activations: kept + self.passing(blocks.last(), tokens),
                logits: 0,
            },
            self.end(tokens, 1, &blocks),
        ]
    }

    fn keeping_inputs(&self, tokens: usize, every: usize) -> Vec<Moment> {
        let hidden = self.hidden(tokens);
        let blocks = self.blocks();
        let inputs = blocks.chunks(every).len() as u64 * hidden;
        let last = blocks.chunks(every).next_back().unwrap_or_default();
        let first_gradients = match self.in_backward {
            true => self.held() + self.own(last, &blocks) / 4,
            false => self.head_gradient(),
        };
        let last: u64 = last.iter().map(|kept| self.kept_bytes(kept, tokens)).sum();
        vec![
            Moment {
                activations: inputs + self.float() * (tokens * self.model.forward_numbers()) as u64,
                ..Moment::default()
            },
            self.loss(tokens, inputs + hidden + self.ends(tokens)),
            Moment {
                gradients: first_gradients,
                activations: inputs + hidden + last + self.passing(blocks.last(), tokens),
                logits: 0,
            },
            self.end(tokens, every, &blocks),
        ]
    }

    /// While the loss is computed: `kept` is there, and the rows that are predicted from, with their gradient.
    fn loss(&self, tokens: usize, kept: u64) -> Moment {
        // The table with the rows behind it, and in its own order.
        let copies = if self.new_rows { 2 * self.table_bytes() } else { 0 };
        Moment {
            gradients: self.head_gradient(),
            activations: kept + 2 * self.hidden(tokens),
            logits: self.logits(tokens) + copies,
        }
    }

    /// The last segment of the backward pass, the first `every` blocks that a gradient reaches: all gradients but their own.
    fn end(&self, tokens: usize, every: usize, blocks: &[BlockActivations]) -> Moment {
        let reached = blocks.iter().position(|kept| kept.tracked).unwrap_or(0);
        let last = &blocks[reached..blocks.len().min(reached + every)];
        let table = if self.table { self.table_bytes() } else { 0 };
        let own = self.own(last, blocks);
        // Measured: a quarter of their own is there before what they kept has gone. The table's starts as zeros, which the CPU
        // copies to add the rows to them.
        let gradients = match self.in_backward {
            true => self.held() + own / 4 + 2 * table,
            false => FLOAT * self.numbers - 3 * own / 4 + table + self.held(),
        };
        let kept: u64 = last.iter().map(|kept| self.kept_bytes(kept, tokens)).sum();
        Moment {
            gradients,
            activations: self.hidden(tokens) + kept + self.passing(last.first(), tokens),
            logits: 0,
        }
    }

    /// Gradients of some of the blocks.
    fn own(&self, some: &[BlockActivations], blocks: &[BlockActivations]) -> u64 {
        let table = if self.table { self.table_bytes() } else { 0 };
        let of_blocks = (FLOAT * self.numbers).saturating_sub(table.max(self.head_gradient()));
        let specs = |blocks: &[BlockActivations]| blocks.iter().map(|kept| kept.specs as u64).sum::<u64>();
        of_blocks * specs(some) / specs(blocks).max(1)
    }

    /// Gradients that wait for the embeddings to add to them.
    fn held(&self) -> u64 {
        if self.tied { self.table_bytes() } else { 0 }
    }

    fn blocks(&self) -> Vec<BlockActivations> {
        let trains = |path: &str| self.trains.get(path).copied();
        let mut tracked = self.table
            || self
                .trains
                .keys()
                .any(|path| path.contains("embed_tokens") || path.contains("wte"));
        let mut blocks = Vec::new();
        for index in 0..self.model.num_hidden_layers {
            let kept = self.model.kept(index, tracked, &trains);
            tracked = kept.tracked;
            blocks.push(kept);
        }
        blocks
    }

    /// Input and output of the final norm.
    fn ends(&self, tokens: usize) -> u64 {
        2 * self.hidden(tokens)
    }

    /// Bytes of a number among the activations.
    fn float(&self) -> u64 {
        if self.half { FLOAT / 2 } else { FLOAT }
    }

    fn kept_bytes(&self, kept: &BlockActivations, tokens: usize) -> u64 {
        let per_token = match self.half {
            true => kept.half_bytes as u64,
            false => FLOAT * kept.per_token as u64,
        };
        tokens as u64 * per_token + FLOAT * kept.fixed as u64
    }

    fn passing(&self, block: Option<&BlockActivations>, tokens: usize) -> u64 {
        self.float() * (tokens * block.map_or(0, |kept| kept.passing)) as u64
    }

    fn hidden(&self, tokens: usize) -> u64 {
        self.float() * (tokens * self.model.hidden_size) as u64
    }

    fn table_bytes(&self) -> u64 {
        FLOAT * (self.model.vocab_size * self.model.hidden_size) as u64
    }

    fn head_gradient(&self) -> u64 {
        if self.head { self.table_bytes() } else { 0 }
    }

    /// A chunk of logits: about a million numbers, twice where they are bounded. Through an adapter they are all there, with their
    /// log-softmax and its gradient; bounded ones are the product with W + dW, whose gradient is as large.
    fn logits(&self, tokens: usize) -> u64 {
        let (vocab, bounded) = (self.model.vocab_size, self.model.block.logit_cap.is_some());
        if self.distills != [0, 0] {
            // They are work memory, which stays.
            return 0;
        }
        if self.adapted_head && !bounded {
            return 3 * FLOAT * (tokens * vocab) as u64;
        }
        let rows = tokens.clamp(1, 1024);
        let chunk = FLOAT * (rows * vocab.min(((1 << 20) / rows).clamp(512, 8192))) as u64;
        let folded = if self.adapted_head { 2 * self.table_bytes() } else { 0 };
        if bounded { 2 * chunk + folded } else { chunk }
    }

    /// Work memory of the CPU kernels: keys and values in packed order and the partial sums of their gradients; the left factor of
    /// a product in packed order, of at most 1536 rows and 16 MiB; with distillation, logits of so many rows that about twelve million
    /// numbers come together.
    pub fn scratch(&self, rows: usize, width: usize) -> u64 {
        const TASKS: usize = 32;
        let pairs = (rows * self.model.num_key_value_heads).max(1);
        let head = width * self.model.head_dim;
        let sums = TASKS.div_ceil(pairs) * pairs * 2 * head;
        let widest = self.model.hidden_size.max(self.model.intermediate_size);
        let factor = ((rows * width).min(1536) * widest).min(4 << 20);
        let logits = |vocab: usize| match vocab {
            0 => 0,
            _ => (rows * width).min(((12 << 20) / vocab).max(128)) * vocab,
        };
        let [own, teachers] = self.distills.map(logits);
        let own = if self.model.block.logit_cap.is_some() {
            2 * own
        } else {
            own
        };
        FLOAT * (3 * pairs * head + sums + factor + own + teachers) as u64
    }
}
