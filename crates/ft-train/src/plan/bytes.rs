//! Where the memory of a run goes, by part.

use serde::Serialize;

/// Bytes by part, at the moment of a step when they are most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// The base model's tensors as they are held.
    pub weights: u64,
    /// Tensors that the method adds.
    pub adapters: u64,
    /// Gradients alive at that moment; with accumulation, the sum so far besides.
    pub gradients: u64,
    /// The optimizer's states.
    pub optimizer: u64,
    /// What the blocks keep for the backward pass and what passes through them, at the largest micro-batch.
    pub activations: u64,
    /// Logits, one chunk at a time, or all of them where an adapter sits on the head.
    pub logits: u64,
    /// Work memory of the kernels.
    pub scratch: u64,
    /// What a strategy against forgetting holds: Fisher information, anchors, gradients of memories.
    pub continual: u64,
    /// A reference or a teacher, as it is held; nothing for what it shares with the base.
    pub other_model: u64,
    /// Copies while a checkpoint is written, where that takes more than a step: gradients and activations are gone then, and
    /// tensors are read back one by one.
    pub saving: u64,
    /// The program with data and tokenizer, as measured when the process first planned.
    pub runtime: u64,
}

impl Bytes {
    /// The same at the end of a step, while copies of this size are written, if that is worse.
    pub fn or_saving(self, copies: u64) -> Self {
        let saving = Self {
            gradients: 0,
            activations: 0,
            logits: 0,
            saving: copies,
            ..self
        };
        if saving.total() > self.total() { saving } else { self }
    }

    /// All parts together.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Name and bytes of every part.
    pub fn parts(&self) -> [(&'static str, u64); 11] {
        [
            ("weights", self.weights),
            ("adapters", self.adapters),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
            ("scratch", self.scratch),
            ("continual", self.continual),
            ("other model", self.other_model),
            ("saving", self.saving),
            ("runtime", self.runtime),
        ]
    }
}
