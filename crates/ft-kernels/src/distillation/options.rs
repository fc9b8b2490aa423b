//! What a distillation minimizes.

/// The objective of [`distillation`](super::distillation).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DistillationOptions {
    /// Weight of the divergence, in `[0, 1]`; the cross-entropy has the rest.
    pub alpha: f64,
    /// Which divergence, in `[0, 1]`: 0 is the forward KL(teacher ‖ student), 1 the reverse KL(student ‖ teacher), and
    /// between lies the generalized Jensen-Shannon divergence of GKD (Agarwal et al. 2023,
    /// <https://arxiv.org/abs/2306.13649>, Eq. 1): with `M = beta·p + (1-beta)·q`, p the teacher's and q the student's
    /// probabilities, `beta · KL(p ‖ M) + (1-beta) · KL(q ‖ M)`. It vanishes towards both ends, which is why they are KLs.
    pub beta: f64,
    /// Both models' logits are divided by it, for the divergence alone; above 0.
    pub temperature: f64,
    /// Multiplies the divergence by the square of the temperature, which keeps its gradient's size (Hinton et al. 2015,
    /// <https://arxiv.org/abs/1503.02531>, section 2).
    pub t_squared: bool,
}

impl DistillationOptions {
    pub(super) fn check(&self) {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        assert!(
            share(self.alpha) && share(self.beta) && self.temperature > 0.0 && self.temperature.is_finite(),
            "distillation: alpha and beta lie in [0, 1] and the temperature above 0: {self:?}"
        );
    }

    pub(crate) fn divergence(&self) -> Divergence {
        match self.beta {
            0.0 => Divergence::Forward,
            1.0 => Divergence::Reverse,
            beta => Divergence::Mixed(beta),
        }
    }

    /// What the divergence is multiplied by.
    pub(crate) fn scale(&self) -> f64 {
        if self.t_squared { self.temperature.powi(2) } else { 1.0 }
    }

    /// What the divergence's slope to the cooled logits is multiplied by for the objective's slope to the logits.
    pub(crate) fn slope(&self) -> f64 {
        self.alpha * self.scale() / self.temperature
    }
}

/// A divergence of teacher's probabilities p and student's q.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Divergence {
    /// KL(p ‖ q).
    Forward,
    /// KL(q ‖ p).
    Reverse,
    /// With p's weight in the mixture.
    Mixed(f64),
}

/// [`DistillationOptions`], the rows of the vocabulary that the divergence sees, and how logits are bounded.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    pub(crate) options: DistillationOptions,
    pub(crate) common: usize,
    /// Bounds of the student's and of the teacher's logits.
    pub(crate) caps: [Option<f64>; 2],
}

/// Bound of logarithms of ratios: `exp` of both signs is a normal f32.
pub(crate) const FAR: f64 = 80.0;

/// Least tail of a teacher's probabilities: below it, what f32 logarithms leave of 1 is noise.
pub(crate) const TINY: f64 = f32::EPSILON as f64;
