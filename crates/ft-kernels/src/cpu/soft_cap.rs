//! Logits bounded softly: `cap · tanh(x / cap)`, whose slope is `1 - (bounded / cap)²`.
use super::isa::multiversion;
use super::{math, par, scratch};

/// Bounded logits that slopes are computed from.
pub(crate) struct Bounded {
    values: scratch::Scratch,
    cap: f32,
}

/// Bounds logits in place, on all threads, where there is a cap.
pub(crate) fn bound_all(x: &mut [f32], cap: Option<f32>) {
    if let Some(cap) = cap {
        pieces(x, |_, piece| bound(piece, cap));
    }
}

/// A copy of bounded logits, where there is a cap and it is wanted.
pub(crate) fn keep(x: &[f32], cap: Option<f32>, wanted: bool) -> Option<Bounded> {
    let cap = cap.filter(|_| wanted)?;
    let mut values = scratch::take(x.len());
    values.copy_from_slice(x);
    Some(Bounded { values, cap })
}

/// Slopes to bounded logits become slopes to the logits themselves, on all threads.
pub(crate) fn undo_all(slopes: &mut [f32], bounded: Option<Bounded>) {
    if let Some(Bounded { values, cap }) = bounded {
        pieces(slopes, |start, piece| {
            times_slopes(piece, &values[start..][..piece.len()], 1.0 / cap)
        });
    }
}

/// The slope where a logit was bounded to this.
pub(crate) fn slope(bounded: f32, cap: Option<f32>) -> f32 {
    cap.map_or(1.0, |cap| 1.0 - (bounded / cap).powi(2))
}

fn pieces(x: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    let len = x.len();
    let shared = par::Shared::new(x);
    par::row_blocks(len, 1, |start, count| {
        // SAFETY: every number belongs to one piece.
        f(start, unsafe { shared.slice(start, count) });
    });
}

multiversion! {
    pub(crate) fn bound(x: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        x.iter_mut().for_each(|x| *x = cap * math::tanh(*x * inverse));
    }
    fn times_slopes(x: &mut [f32], bounded: &[f32], inverse: f32) {
        for (x, bounded) in x.iter_mut().zip(bounded) {
            let t = bounded * inverse;
            *x *= 1.0 - t * t;
        }
    }
}
