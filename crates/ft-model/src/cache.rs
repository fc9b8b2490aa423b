use burn::tensor::{Tensor, s};
use ft_kernels::{Mask, Scoring};

use crate::apart::Apart;

/// Columns by which a layer's buffer grows, so that most appends write in place.
pub(crate) const GROWTH: usize = 128;

/// Keys and values of the columns seen so far, or what linear attention makes of them, layer by layer.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<Option<Layer>>,
    /// Of the layers with linear attention.
    states: Vec<Option<State>>,
    len: usize,
    /// Columns of virtual tokens before all others, where the cache [started](KvCache::behind) with them.
    start: Start,
    /// Sequences that go on side by side, each in a cache of its own; nothing is held here then.
    apart: Option<Apart>,
}

/// What a layer of linear attention knows of all columns so far.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The last columns that went into the convolution, `[batch, taps - 1, width]`.
    pub history: Tensor<3>,
    /// `[batch, value heads, key dim, value dim]`.
    pub delta: Tensor<4>,
}

/// Virtual tokens at the beginning of a cache.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    columns: usize,
    /// No window hides them: keys and values of a prefix, not of a prompt.
    in_sight: bool,
}

#[derive(Clone, Debug)]
struct Layer {
    /// `[batch, capacity, kv heads, head_dim]`
    keys: Tensor<4>,
    values: Tensor<4>,
    len: usize,
}

/// What a layer of linear attention makes of its inputs and its state.
pub(crate) type Step<'a> = dyn Fn([Tensor<3>; 3], Option<State>) -> (Tensor<4>, State) + 'a;

impl KvCache {
    /// An empty cache for `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![None; layers],
            states: vec![None; layers],
            len: 0,
            start: Start::default(),
            apart: None,
        }
    }

    /// The caches of sequences that go on side by side, for the length of one call.
    pub(crate) fn apart(sequences: Apart) -> Self {
        Self {
            layers: Vec::new(),
            states: Vec::new(),
            len: 0,
            start: Start::default(),
            apart: Some(sequences),
        }
    }

    pub(crate) fn into_apart(self) -> Option<Apart> {
        self.apart
    }

    /// A cache in which nothing but the first `columns` of this one are, as virtual tokens: what comes is the text.
    pub(crate) fn behind(mut self, columns: usize, in_sight: bool) -> Self {
        self.layers
            .iter_mut()
            .flatten()
            .for_each(|layer| layer.len = columns.min(layer.len));
        self.start = Start { columns, in_sight };
        self.len = 0;
        self
    }

    /// Columns of virtual tokens that it started with; [`len`](Self::len) does not count them.
    pub fn virtual_tokens(&self) -> usize {
        self.start.columns
    }

    /// Position of the column that comes next.
    pub(crate) fn position(&self) -> usize {
        self.start.columns + self.len
    }

    /// What the queries of the next columns see.
    pub(crate) fn mask(&self, window: Option<usize>) -> Mask {
        let prefix = if self.start.in_sight { self.start.columns } else { 0 };
        Mask {
            offset: self.position() - prefix,
            window,
            prefix,
            ..Mask::default()
        }
    }

    /// Columns for which there is room once `columns` are held: what a sequence takes of a budget.
    pub fn room(columns: usize) -> usize {
        columns.next_multiple_of(GROWTH)
    }

    /// Columns held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it can forget its last columns: not where a state holds them.
    pub fn can_be_cut(&self) -> bool {
        self.states.iter().all(Option::is_none)
    }

    /// How many of its first `len` columns it can go on from: all, but where a state holds them, which cannot be taken apart, all or none.
    pub fn resumes(&self, len: usize) -> usize {
        if len == self.len || self.can_be_cut() { len } else { 0 }
    }

    /// The same with its first `len` columns alone. The buffers are shared until one of the two is written to.
    pub fn truncated(&self, len: usize) -> Self {
        let mut short = self.clone();
        short.truncate(len);
        short
    }

    /// Forgets all but the first `len` columns; virtual tokens stay.
    ///
    /// # Panics
    /// If [`resumes`](Self::resumes) says that it cannot.
    pub fn truncate(&mut self, len: usize) {
        assert!(
            self.resumes(len.min(self.len)) == len.min(self.len),
            "a state cannot be taken back to column {len} of {}",
            self.len
        );
        self.len = len.min(self.len);
        let columns = self.position();
        self.layers.iter_mut().flatten().for_each(|layer| layer.len = columns);
    }

    /// Takes keys and values of a call in, and attends to all that are held then: q `[batch, seq, heads, head_dim]`.
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        [q, keys, values]: [Tensor<4>; 3],
        mask: &Mask,
        scoring: &Scoring,
    ) -> Tensor<4> {
        if let Some(apart) = &mut self.apart {
            return apart.attend(layer, [q, keys, values], mask.window, scoring);
        }
        let (keys, values) = self.append(layer, keys, values);
        ft_kernels::attention(q, keys, values, mask, scoring.clone())
    }

    /// Runs `step` on the columns of a call, `[batch, seq, ..]`, from the state of a layer to the one behind them: `[batch, seq, heads, dim]`.
    pub(crate) fn go_on(&mut self, layer: usize, inputs: [Tensor<3>; 3], step: &Step<'_>) -> Tensor<4> {
        if let Some(apart) = &mut self.apart {
            return apart.go_on(layer, inputs, step);
        }
        let (out, state) = step(inputs, self.states[layer].take());
        self.states[layer] = Some(state);
        out
    }

    /// Appends `[batch, seq, kv heads, head_dim]` to a layer and returns all its keys and values.
    pub(crate) fn append(&mut self, layer: usize, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let held = match self.layers[layer].take() {
            None => Layer::start(keys, values),
            Some(held) => held.append(keys, values),
        };
        let all = held.view();
        self.layers[layer] = Some(held);
        all
    }

    /// Called once all layers have taken `seq` more columns.
    pub(crate) fn advance(&mut self, seq: usize) {
        match &mut self.apart {
            Some(apart) => apart.advance(),
            None => self.len += seq,
        }
    }
}

impl Layer {
    fn start(keys: Tensor<4>, values: Tensor<4>) -> Self {
        let len = keys.dims()[1];
        Self { keys, values, len }
    }

    fn append(self, keys: Tensor<4>, values: Tensor<4>) -> Self {
        let len = self.len + keys.dims()[1];
        let at = s![.., self.len..len, .., ..];
        Self {
            keys: write(self.keys, keys, at, len),
            values: write(self.values, values, at, len),
            len,
        }
    }

    fn view(&self) -> (Tensor<4>, Tensor<4>) {
        let held = s![.., 0..self.len, .., ..];
        (self.keys.clone().slice(held), self.values.clone().slice(held))
    }
}

fn write(buffer: Tensor<4>, new: Tensor<4>, at: [burn::tensor::Slice; 4], len: usize) -> Tensor<4> {
    let [batch, capacity, heads, dim] = buffer.dims();
    let buffer = if len <= capacity {
        buffer
    } else {
        let room = Tensor::zeros(
            [batch, KvCache::room(len) - capacity, heads, dim],
            (&buffer.device(), buffer.dtype()),
        );
        Tensor::cat(vec![buffer, room], 1)
    };
    buffer.slice_assign(at, new)
}
