use burn::tensor::{Tensor, s};

/// Columns by which a layer's buffer grows, so that most appends write in place.
const GROWTH: usize = 128;

/// Keys and values of the columns seen so far, layer by layer.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<Option<Layer>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Layer {
    /// `[batch, capacity, kv heads, head_dim]`
    keys: Tensor<4>,
    values: Tensor<4>,
    len: usize,
}

impl KvCache {
    /// An empty cache for `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![None; layers],
            len: 0,
        }
    }

    /// Columns held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// SavedActivations only the batch rows named, in that order (beam search, finished rows).
    pub fn select_rows(&mut self, rows: burn::tensor::Tensor<1, burn::tensor::Int>) {
        for layer in self.layers.iter_mut().flatten() {
            layer.keys = layer.keys.clone().select(0, rows.clone());
            layer.values = layer.values.clone().select(0, rows.clone());
        }
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
        self.len += seq;
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
            [batch, len - capacity + GROWTH, heads, dim],
            (&buffer.device(), buffer.dtype()),
        );
        Tensor::cat(vec![buffer, room], 1)
    };
    buffer.slice_assign(at, new)
}
