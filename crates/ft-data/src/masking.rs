//! Which tokens of a text are hidden from an encoder (Devlin et al. 2018, arXiv:1810.04805, section 3.1), drawn anew at every step
//! (RoBERTa: Liu et al. 2019, arXiv:1907.11692, section 4.1): a function of the seed, the step and the text alone, so that a resumed run
//! and one that cuts its steps otherwise hide the same.

use std::collections::BTreeSet;

use ft_seed::{below, stream, sub_seed};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::{Batch, Error, Result, Tokenizer};

/// Of what is hidden: the share that shows the mask, and the share that shows another token; the rest shows itself.
const SHOWN: [f64; 2] = [0.8, 0.1];

/// How tokens are hidden.
#[derive(Clone, Debug)]
pub struct Masking {
    probability: f64,
    seed: u64,
    /// The token that stands for what is hidden.
    mask: u32,
    /// Tokens that are hidden in no text that has others.
    special: BTreeSet<u32>,
    /// Tokens that another one is drawn from: those below.
    vocabulary: usize,
}

impl Masking {
    /// For texts of a tokenizer; `vocabulary` is what the model knows.
    ///
    /// # Errors
    /// A tokenizer without a token for what is hidden.
    pub fn new(probability: f64, seed: u64, tokenizer: &Tokenizer, vocabulary: usize) -> Result<Self> {
        let known = tokenizer.vocab_size().min(vocabulary);
        let mask = tokenizer.mask_id().filter(|id| (*id as usize) < known).ok_or_else(|| {
            let why = "no mask token, which stands for what is to be filled in; name one as `mask_token` in tokenizer_config.json";
            Error::Tokenizer(why.into())
        })?;
        Ok(Self {
            probability,
            seed,
            mask,
            special: (0..known as u32)
                .filter(|id| *id == mask || tokenizer.is_special(*id))
                .collect(),
            vocabulary: known,
        })
    }

    /// The batch of a training step with tokens hidden, which are what is learned of it.
    pub fn in_step(&self, batch: &Batch, step: usize) -> Batch {
        self.hide(batch, sub_seed(self.seed, &format!("mask/{step}")))
    }

    /// A held-out batch with tokens hidden, the same at every evaluation.
    pub fn held_out(&self, batch: &Batch) -> Batch {
        self.hide(batch, sub_seed(self.seed, "mask/held out"))
    }

    fn hide(&self, batch: &Batch, seed: u64) -> Batch {
        let mut hidden = Batch {
            positions: Vec::new(),
            targets: Vec::new(),
            sequence_of: Vec::new(),
            ..batch.clone()
        };
        for sequence in 0..batch.sequences() {
            let cells = batch.cells(sequence);
            let ids = &batch.ids[cells.clone()];
            let mut rng = stream(seed, &format!("{ids:?}"));
            for at in self.chosen(ids, &mut rng) {
                let cell = cells.start + at;
                hidden.ids[cell] = self.shown(ids[at], &mut rng);
                hidden.positions.push(cell as i32);
                hidden.targets.push(ids[at]);
                hidden.sequence_of.push(sequence as i32);
            }
        }
        hidden
    }

    /// Each token with the probability, but at least one of a text.
    fn chosen(&self, ids: &[i32], rng: &mut ChaCha8Rng) -> Vec<usize> {
        let special = |at: &usize| self.special.contains(&(ids[*at] as u32));
        let mut open: Vec<usize> = (0..ids.len()).filter(|at| !special(at)).collect();
        let drawn: Vec<usize> = open.iter().copied().filter(|_| share(rng) < self.probability).collect();
        if !drawn.is_empty() || ids.is_empty() {
            return drawn;
        }
        if open.is_empty() {
            open.extend(0..ids.len());
        }
        vec![open[below(rng, open.len())]]
    }

    /// What is seen in the place of a hidden token.
    fn shown(&self, id: i32, rng: &mut ChaCha8Rng) -> i32 {
        let [mask, other] = SHOWN;
        match share(rng) {
            draw if draw < mask => self.mask as i32,
            draw if draw < mask + other => below(rng, self.vocabulary) as i32,
            _ => id,
        }
    }
}

/// 53 bits as a number from 0 to below 1.
fn share(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sample;

    fn masking(probability: f64) -> Masking {
        Masking {
            probability,
            seed: 3,
            mask: 4,
            special: (0..5).collect(),
            vocabulary: 1000,
        }
    }

    fn text(words: std::ops::Range<u32>) -> Sample {
        let ids: Vec<u32> = [2].into_iter().chain(words).chain([3]).collect();
        Sample::answered(ids, 1)
    }

    #[test]
    fn a_share_is_hidden_and_shown_as_the_paper_says() {
        let samples: Vec<Sample> = (0..50).map(|i| text(100 + i..900)).collect();
        let batch = Batch::new(&samples.iter().collect::<Vec<_>>(), 0, 1);
        let hidden = masking(0.15).held_out(&batch);
        let (count, words) = (hidden.target_tokens() as f64, (batch.tokens() - 100) as f64);
        assert!((count / words - 0.15).abs() < 0.01, "{count} of {words}");
        let mut shown = [0.0; 3];
        for (at, target) in hidden.positions.iter().zip(&hidden.targets) {
            assert_eq!(batch.ids[*at as usize], *target);
            let seen = hidden.ids[*at as usize];
            shown[if seen == 4 {
                0
            } else if seen != *target {
                1
            } else {
                2
            }] += 1.0 / count;
        }
        for (found, expected) in shown.iter().zip([0.8, 0.1, 0.1]) {
            assert!((found - expected).abs() < 0.02, "{shown:?}");
        }
        let changed = hidden.ids.iter().zip(&batch.ids).filter(|(a, b)| a != b).count() as f64;
        assert!(changed < count, "nothing else is touched: {changed} of {count}");
    }

    #[test]
    fn what_is_hidden_depends_on_the_step_and_the_text_alone() {
        let samples: Vec<Sample> = (0..4).map(|i| text(100 + i..120 + 2 * i)).collect();
        let all: Vec<&Sample> = samples.iter().collect();
        let masking = masking(0.3);
        let learned = |step: usize, batches: &[Batch]| {
            let hidden = batches.iter().map(|batch| masking.in_step(batch, step));
            let of_batch = |batch: Batch| {
                let cells = batch.positions.iter().zip(&batch.sequence_of);
                let cells = cells.map(|(at, of)| (*at as usize - batch.starts[*of as usize], batch.ids[*at as usize]));
                cells.zip(batch.targets.clone()).collect::<Vec<_>>()
            };
            hidden.flat_map(of_batch).collect::<Vec<_>>()
        };
        let whole = [Batch::new(&all, 0, 1)];
        let cut = [Batch::new(&all[..1], 0, 1), Batch::packed(&[all[1..].to_vec()], 0, 8)];
        assert_eq!(learned(7, &whole), learned(7, &cut));
        assert_ne!(learned(7, &whole), learned(8, &whole));
    }

    #[test]
    fn of_every_text_one_is_hidden_and_no_special_one_beside_others() {
        let (short, none) = (text(9..10), text(9..9));
        let batch = Batch::new(&[&short, &none], 0, 1);
        let hidden = masking(0.15).held_out(&batch);
        assert_eq!((hidden.positions[0], hidden.targets[0]), (1, 9));
        assert_eq!(hidden.sequence_of, [0, 1]);
    }
}
