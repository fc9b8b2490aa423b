//! Dynamic loss scaling for activations in f16: small gradients are lifted out of its underflow, and a scale that makes them
//! overflow is taken back (Micikevicius et al. 2018, arXiv:1710.03740). The constants are those of `torch.amp.GradScaler`.
//!
//! ```text
//! backward of scale · loss ─> gradients / scale ─> all finite? ─ yes ─> step; after 2000 in a row: scale · 2
//!                                                             └─ no ──> no step; scale / 2
//! ```

use serde::{Deserialize, Serialize};

/// First scale.
const START: f64 = 65_536.0;
/// Steps in a row after which the scale doubles.
const INTERVAL: u32 = 2000;
/// The largest scale: above it, the loss itself would leave f32.
const MOST: f64 = (1u64 << 40) as f64;

/// The scale and what led to it. Saved with the run: a resume goes on with the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// What the loss is multiplied by, a power of two: scaling rounds nothing.
    pub scale: f64,
    /// Steps without an overflow since the scale last changed.
    pub steady: u32,
    /// Steps that were left out because a gradient overflowed.
    pub skipped: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            scale: START,
            steady: 0,
            skipped: 0,
        }
    }
}

impl LossScale {
    /// A scale to begin with.
    ///
    /// # Errors
    /// What is wrong with a number that is no power of two from 1 to 2⁴⁰.
    pub fn new(scale: f64) -> Result<Self, String> {
        let power = scale.is_finite() && scale.log2().fract() == 0.0;
        match power && (1.0..=MOST).contains(&scale) {
            true => Ok(Self {
                scale,
                ..Self::default()
            }),
            false => Err(format!(
                "{scale} must be a power of two from 1 to 2^40, such as {START}"
            )),
        }
    }

    /// Takes in whether all gradients of a step were finite; the step may be taken only if they were.
    pub fn update(&mut self, finite: bool) {
        if !finite {
            (self.scale, self.steady) = ((self.scale / 2.0).max(1.0), 0);
            self.skipped += 1;
            return;
        }
        self.steady += 1;
        if self.steady == INTERVAL {
            (self.scale, self.steady) = ((self.scale * 2.0).min(MOST), 0);
        }
    }

    /// Whether the next overflow cannot be met with a smaller scale.
    pub fn is_exhausted(&self) -> bool {
        self.scale <= 1.0
    }

    /// What a loss that is a sum over `count` tokens is multiplied by, a power of two: the scale of about their mean.
    pub fn factor(&self, count: usize) -> f64 {
        self.scale / count.max(1).next_power_of_two() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_backs_off_at_once_and_grows_after_a_long_quiet() {
        let mut scale = LossScale::default();
        scale.update(false);
        scale.update(false);
        assert_eq!((scale.scale, scale.skipped), (16_384.0, 2));
        (0..INTERVAL - 1).for_each(|_| scale.update(true));
        assert_eq!(scale.scale, 16_384.0);
        scale.update(true);
        assert_eq!((scale.scale, scale.steady), (32_768.0, 0));
        (0..INTERVAL - 1).for_each(|_| scale.update(true));
        scale.update(false);
        assert_eq!(
            (scale.scale, scale.steady),
            (16_384.0, 0),
            "an overflow starts the count anew"
        );
    }

    #[test]
    fn it_stays_between_one_and_what_f32_holds() {
        let mut scale = LossScale::default();
        (0..40).for_each(|_| scale.update(false));
        assert!(scale.scale == 1.0 && scale.is_exhausted());
        (0..INTERVAL * 60).for_each(|_| scale.update(true));
        assert_eq!(scale.scale, MOST);
    }

    #[test]
    fn a_first_scale_is_a_power_of_two() {
        assert_eq!(LossScale::new(1024.0).unwrap().scale, 1024.0);
        for bad in [0.0, -2.0, 0.5, 3.0, f64::NAN, f64::INFINITY, MOST * 2.0] {
            assert!(LossScale::new(bad).unwrap_err().contains("power of two"), "{bad}");
        }
    }

    #[test]
    fn its_factor_is_a_power_of_two_for_about_the_mean() {
        let scale = LossScale::default();
        assert_eq!(scale.factor(0), 65_536.0);
        assert_eq!(scale.factor(1), 65_536.0);
        assert_eq!(scale.factor(1000), 64.0);
    }

    #[test]
    fn what_is_saved_reads_back_the_same() {
        let mut scale = LossScale::default();
        (0..7).for_each(|_| scale.update(true));
        scale.update(false);
        let text = serde_json::to_string(&scale).unwrap();
        assert_eq!(serde_json::from_str::<LossScale>(&text).unwrap(), scale);
    }
}
