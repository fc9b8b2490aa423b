//! Convolution of each channel with SiLU behind it, forward and backward, in blocks of channels that stay in the first-level cache.
use super::flex::{contiguous, fresh, tensor, values};
use super::isa::multiversion;
use super::{math, par, scratch};
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

/// Channels of a task.
const WIDTH: usize = 256;

/// What the columns of a row see: x `[s, channels]` behind `history` `[taps - 1, channels]`.
struct Row<'a> {
    x: &'a [f32],
    history: Option<&'a [f32]>,
    first: Option<&'a [i64]>,
    channels: usize,
    taps: usize,
}

impl Row<'_> {
    /// Channels `from..from + len` of the column that tap `tap` of `column` reads; `None` of zeros and of what is not seen.
    fn read(&self, column: usize, tap: usize, from: usize, len: usize) -> Option<&[f32]> {
        let at = (column + tap) as i64 - (self.taps as i64 - 1);
        if self.first.is_some_and(|first| first[column] > at) {
            return None;
        }
        match usize::try_from(at) {
            Ok(at) => Some(&self.x[at * self.channels + from..][..len]),
            Err(_) => {
                let history = self.history?;
                Some(&history[(column + tap) * self.channels + from..][..len])
            }
        }
    }
}

/// The sizes of a call and its weight, one tap behind the other: `[taps, channels]`.
struct Call {
    b: usize,
    s: usize,
    channels: usize,
    taps: usize,
    weight: Vec<f32>,
    x: FlexTensor,
    history: Option<FlexTensor>,
    first: Option<Vec<i64>>,
}

impl Call {
    fn new(x: FlexTensor, weight: FlexTensor, history: Option<FlexTensor>, first: Option<Vec<i64>>) -> Self {
        let ([b, s, channels], [_, taps]): ([usize; 3], [usize; 2]) = (x.shape().dims(), weight.shape().dims());
        let own = values(&weight);
        let turned = (0..taps * channels)
            .map(|i| own[i % channels * taps + i / channels])
            .collect();
        Self {
            b,
            s,
            channels,
            taps,
            weight: turned,
            x: contiguous(x),
            history: history.map(contiguous),
            first,
        }
    }

    /// The row `batch`.
    fn row(&self, batch: usize) -> Row<'_> {
        let part = |len: usize| batch * len..(batch + 1) * len;
        Row {
            x: &values(&self.x)[part(self.s * self.channels)],
            history: self
                .history
                .as_ref()
                .map(|history| &values(history)[part((self.taps - 1) * self.channels)]),
            first: self.first.as_ref().map(|first| &first[part(self.s)]),
            channels: self.channels,
            taps: self.taps,
        }
    }

    /// Runs `task(row, from, len)` for every block of channels of every row.
    fn blocks(&self, task: impl Fn(usize, usize, usize) + Sync) {
        let blocks = self.channels.div_ceil(WIDTH);
        par::run(self.b * blocks, |index| {
            let (batch, from) = (index / blocks, index % blocks * WIDTH);
            task(batch, from, WIDTH.min(self.channels - from));
        });
    }

    /// The convolution at a column, before SiLU.
    fn sum(&self, row: &Row<'_>, column: usize, from: usize, sum: &mut [f32]) {
        sum.fill(0.0);
        for tap in 0..self.taps {
            if let Some(x) = row.read(column, tap, from, sum.len()) {
                add_product(sum, x, &self.weight[tap * self.channels + from..][..x.len()]);
            }
        }
    }
}

pub(crate) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    history: Option<FlexTensor>,
    first: Option<Vec<i64>>,
) -> FlexTensor {
    let call = Call::new(x, weight, history, first);
    let (s, channels) = (call.s, call.channels);
    let mut out = fresh(call.b * s * channels);
    let shared = par::Shared::new(&mut out);
    call.blocks(|batch, from, len| {
        let row = call.row(batch);
        for column in 0..s {
            // SAFETY: every (column, block of channels) belongs to one task.
            let out = unsafe { shared.slice((batch * s + column) * channels + from, len) };
            call.sum(&row, column, from, out);
            silu(out);
        }
    });
    tensor(out, [call.b, s, channels])
}

/// Gradients to x and, if asked for, to the weight `[channels, taps]`.
pub(crate) fn backward(
    x: FlexTensor,
    weight: FlexTensor,
    dy: FlexTensor,
    history: Option<FlexTensor>,
    first: Option<Vec<i64>>,
    weight_too: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    let call = Call::new(x, weight, history, first);
    let (b, s, channels, taps) = (call.b, call.s, call.channels, call.taps);
    let dy = contiguous(dy);
    let dy = values(&dy);
    let mut dx = fresh(b * s * channels);
    let mut parts = if weight_too {
        fresh(b * taps * channels)
    } else {
        Vec::new()
    };
    let (shared, shared_parts) = (par::Shared::new(&mut dx), par::Shared::new(&mut parts));
    call.blocks(|batch, from, len| {
        let row = call.row(batch);
        let at = |column: usize| (batch * s + column) * channels + from;
        for column in 0..s {
            // SAFETY: every (column, block of channels) belongs to one task.
            unsafe { shared.slice(at(column), len) }.fill(0.0);
        }
        let mut slope = scratch::take(len);
        let mut to_weight = scratch::take(taps * len);
        to_weight.fill(0.0);
        for column in 0..s {
            call.sum(&row, column, from, &mut slope);
            silu_gradient(&mut slope, &dy[at(column)..][..len]);
            for tap in 0..taps {
                let Some(x) = row.read(column, tap, from, len) else {
                    continue;
                };
                if weight_too {
                    add_product(&mut to_weight[tap * len..][..len], x, &slope);
                }
                if column + tap + 1 >= taps {
                    // SAFETY: as above.
                    let dx = unsafe { shared.slice(at(column + tap + 1 - taps), len) };
                    add_product(dx, &slope, &call.weight[tap * channels + from..][..len]);
                }
            }
        }
        if weight_too {
            for tap in 0..taps {
                // SAFETY: as above.
                let part = unsafe { shared_parts.slice((batch * taps + tap) * channels + from, len) };
                part.copy_from_slice(&to_weight[tap * len..][..len]);
            }
        }
    });
    let dw = weight_too.then(|| {
        let sum = |channel: usize, tap: usize| (0..b).map(|row| parts[(row * taps + tap) * channels + channel]).sum();
        let dw = (0..channels * taps).map(|i| sum(i / taps, i % taps)).collect();
        tensor(dw, [channels, taps])
    });
    (tensor(dx, [b, s, channels]), dw)
}

multiversion! {
    fn add_product(sum: &mut [f32], x: &[f32], y: &[f32]) {
        sum.iter_mut().zip(x).zip(y).for_each(|((s, x), y)| *s += x * y);
    }
    fn silu(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x *= math::sigmoid(*x));
    }
    /// x to `silu'(x) · dy`.
    fn silu_gradient(x: &mut [f32], dy: &[f32]) {
        for (x, dy) in x.iter_mut().zip(dy) {
            let s = math::sigmoid(*x);
            *x = dy * s * (1.0 + *x * (1.0 - s));
        }
    }
}
