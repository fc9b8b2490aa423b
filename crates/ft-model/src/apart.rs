//! Sequences of different lengths in one forward pass: their tokens share every product, each attends to its own past.
//!
//! ```text
//!  ids       a a a | b | c c      one row per token: [tokens, 1]
//!  products  all rows together
//!  attention each sequence by itself, over the keys and values it holds
//! ```

use burn::tensor::{Int, Tensor, TensorData};
use ft_kernels::{Past, Scoring};
use ft_peft::Pass;

use crate::cache::{KvCache, Step};
use crate::model::Model;
use crate::rows::Rows;

/// The next tokens of a sequence.
#[derive(Debug)]
pub struct NextTokens<'a> {
    /// Keys and values of all tokens before; takes in those of the new ones.
    pub cache: &'a mut KvCache,
    /// At least one.
    pub ids: &'a [u32],
}

/// Caches of one row each, and how many tokens of a call each takes in.
#[derive(Clone, Debug)]
pub(crate) struct Apart(Vec<(KvCache, usize)>);

impl Apart {
    /// q, keys and values `[tokens, 1, heads, head_dim]`; a query sees `window` columns of its own sequence.
    pub fn attend(
        &mut self,
        layer: usize,
        [q, keys, values]: [Tensor<4>; 3],
        window: Option<usize>,
        scoring: &Scoring,
    ) -> Tensor<4> {
        let mut start = 0;
        let own = |(cache, queries): &mut (KvCache, usize)| {
            let queries = *queries;
            let part = |x: &Tensor<4>| x.clone().narrow(0, start, queries).swap_dims(0, 1); // [1, queries, heads, head_dim]
            let mask = cache.mask(window);
            let (keys, values) = cache.append(layer, part(&keys), part(&values));
            start += queries;
            Past {
                keys,
                values,
                queries,
                mask,
            }
        };
        let pasts = self.0.iter_mut().map(own).collect();
        ft_kernels::attention_apart(q, pasts, scoring.clone())
    }

    /// Inputs `[tokens, 1, ..]`; each sequence goes on from its own state.
    pub fn go_on(&mut self, layer: usize, inputs: [Tensor<3>; 3], step: &Step<'_>) -> Tensor<4> {
        let mut start = 0;
        let own = |(cache, count): &mut (KvCache, usize)| {
            let from = start;
            start += *count;
            let part = |x: &Tensor<3>| x.clone().narrow(0, from, *count).swap_dims(0, 1); // [1, count, ..]
            let out = cache.go_on(layer, inputs.each_ref().map(part), step);
            out.swap_dims(0, 1) // [count, 1, heads, dim]
        };
        Tensor::cat(self.0.iter_mut().map(own).collect(), 0)
    }

    pub fn advance(&mut self) {
        self.0.iter_mut().for_each(|(cache, count)| cache.advance(*count));
    }
}

impl Model {
    /// Hidden states after the final norm, `[tokens, 1, hidden]`, of the next tokens of several sequences, one behind the other.
    ///
    /// A sequence gets what [`forward`](Model::forward) gives it alone, up to the rounding of products with other numbers of rows,
    /// which [`ft_kernels::row_invariant`] takes away on the CPU.
    ///
    /// Virtual tokens of an adapter come by the caches alone, as [`start`](Model::start) gives them, so that sequences may have different
    /// ones.
    ///
    /// # Panics
    /// If a sequence has no new token.
    pub fn forward_apart(&self, sequences: &mut [NextTokens<'_>], pass: &Pass) -> Tensor<3> {
        assert!(
            sequences.iter().all(|next| !next.ids.is_empty()),
            "a sequence without a new token"
        );
        let positions = sequences
            .iter()
            .flat_map(|next| (0..next.ids.len()).map(|i| next.cache.position() + i));
        let rows = Rows::Tokens(positions.collect());
        let ids: Vec<i32> = sequences
            .iter()
            .flat_map(|next| next.ids)
            .map(|&id| id as i32)
            .collect();
        let tokens = ids.len();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [tokens, 1]), &self.device());
        let empty = || KvCache::new(0);
        let taken = sequences
            .iter_mut()
            .map(|next| (std::mem::replace(next.cache, empty()), next.ids.len()));
        let mut cache = KvCache::apart(Apart(taken.collect()));
        let hidden = self.forward(ids, &rows, Some(&mut cache), pass);
        let Apart(caches) = cache.into_apart().expect("it was made of them");
        for (next, (cache, _)) in sequences.iter_mut().zip(caches) {
            *next.cache = cache;
        }
        hidden
    }

    /// A cache for a sequence of [`forward_apart`](Model::forward_apart) with the virtual tokens of the adapter in the slots: to go on
    /// from when the adapter is gone from there. Without an adapter that has some, an empty cache.
    pub fn start(&self) -> KvCache {
        let mut cache = KvCache::new(self.config().num_hidden_layers);
        let columns = self.virtual_tokens();
        if columns == 0 {
            return cache;
        }
        // Any token will do behind them: keys and values of a column depend on those before it alone.
        let ids = Tensor::<2, Int>::zeros([1, 1], &self.device());
        let (rows, pass, layers) = (&Rows::Right, Pass::eval(), 0..self.num_blocks());
        if self.prompt() > 0 {
            let prompt = self
                .decoder
                .embed(ids, self.config(), rows, 0, &pass)
                .narrow(1, 0, columns);
            self.decoder
                .blocks(layers, prompt, self.config(), rows, Some(&mut cache), &pass);
        } else {
            self.forward(ids, rows, Some(&mut cache), &pass);
        }
        cache.behind(columns, self.prompt() == 0)
    }
}
