//! What a method says of itself: where it acts, how it trains, what its file looks like.

use burn::tensor::TensorData;

use super::trainable_tokens::Token;
use crate::adapter::EMBEDDINGS;
use crate::attach::{Choice, ModuleSpec};
use crate::error::Result;
use crate::peft_config::Target;
use crate::rates::Part;
use crate::saved_activations::SavedActivations;
use crate::target_module::TargetModule;
use crate::training_hook::TrainingHook;

/// What a method's options mean in a model: which modules it takes and what it puts there.
pub trait PeftMethod: InTraining + PeftFile {
    /// Errors that need no model to be seen.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Which of these modules it acts on, and how; none is an error.
    fn choose(&self, specs: &[ModuleSpec]) -> Result<Choice>;

    /// Errors that stand in the way of starting values in a model with these modules.
    fn ready(&self, _places: &[ModuleSpec]) -> Result<()> {
        Ok(())
    }

    /// Columns that it puts before the text: they take positions away from it.
    fn virtual_tokens(&self) -> usize {
        0
    }

    /// A size of its own, by PEFT's key, and the end of the names of the tensors in its file that have this many rows. Sizes that
    /// follow from the base model's matrices are not meant.
    fn size_in_file(&self) -> Option<(&'static str, usize, &'static str)> {
        let tokens = self.virtual_tokens();
        (tokens > 0).then_some(("num_virtual_tokens", tokens, EMBEDDINGS))
    }

    /// Whether weights of the base can stand for its adapter, so that [`fold`](crate::fold) can merge it.
    fn merges(&self) -> bool {
        self.virtual_tokens() == 0
    }

    /// Trainable parameters of its adapter at a module.
    fn parameters_at(&self, _: &ModuleSpec) -> usize {
        0
    }

    /// What its adapter at a module keeps for the backward pass, however the module's own matrix is stored. A test holds every
    /// method to it with a counting allocator.
    fn saved_at(&self, _: &ModuleSpec) -> SavedActivations {
        SavedActivations::input()
    }

    /// Shapes of the tensors of its adapter at a module, for what depends on more than their number. One vector stands for
    /// all of them where a method does not say more.
    fn shapes_at(&self, spec: &ModuleSpec) -> Vec<Vec<usize>> {
        vec![vec![self.parameters_at(spec)]]
    }

    /// Puts its adapter into a module that [`choose`](Self::choose) listed as adapted.
    fn fill(&self, _: &mut TargetModule<'_>, _seed: u64) {}

    /// [`fill`](Self::fill) for all adapted modules at once, for methods whose modules share something.
    fn fill_all(&self, modules: &mut [TargetModule<'_>], seed: u64) {
        modules.iter_mut().for_each(|module| self.fill(module, seed));
    }

    /// Tokens whose rows train in the tables that [`choose`](Self::choose) lists.
    fn tokens(&self) -> &[Token] {
        &[]
    }

    /// Matrices that all experts of a layer have in one tensor, where experts are adapted as such.
    fn target_parameters(&self) -> &[String] {
        &[]
    }

    /// Gives tokens named by their text their ids.
    fn name_tokens(&mut self, _id_of: &dyn Fn(&str) -> Option<u32>) -> Result<()> {
        Ok(())
    }
}

/// What a method asks of a run.
pub trait InTraining {
    /// Base learning rate for AdamW where nobody gives one. One rate for all methods makes those that train few numbers
    /// look useless.
    fn learning_rate(&self) -> f64;

    /// Learning rate of a part of what it trains, where the base rate is `lr`.
    fn rate(&self, _: Part, lr: f64) -> f64 {
        lr
    }

    /// Learns how many optimizer steps the run has.
    fn set_total_steps(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    /// Its own part in the training loop, where it has one.
    fn training_hook(&self) -> Option<Box<dyn TrainingHook>> {
        None
    }

    /// Numbers that its [`training_hook`](Self::training_hook) keeps for every trainable one.
    fn numbers_beside(&self) -> usize {
        0
    }
}

/// The method in the files of an adapter folder.
pub trait PeftFile {
    /// The modules that PEFT's file names as `target_modules`.
    fn targeted(&self, choice: &Choice) -> Vec<String> {
        choice.adapted.clone()
    }

    /// What PEFT's file has between path and name of a checkpoint tensor that trains at `path`.
    fn infix(&self, _path: &str) -> &'static str {
        ""
    }

    /// The tensor `name` of the module at `path` as its parameter holds it, from how PEFT's file holds it.
    fn unpack(&self, _path: &str, _name: &str, data: TensorData) -> TensorData {
        data
    }

    /// PEFT's `adapter_config.json` for it; `None` where there is no adapter to save.
    fn to_peft(&self, _: &Target<'_>) -> Option<serde_json::Value> {
        None
    }

    /// Name of the adapter and `config` of AdapterHub's `adapter_config.json`, for the methods whose folders have its
    /// layout instead of PEFT's.
    fn to_adapterhub(&self) -> Option<(&str, serde_json::Value)> {
        None
    }
}
