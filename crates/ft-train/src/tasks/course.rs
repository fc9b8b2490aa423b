//! Which samples a run is fed, step by step: one mixture from beginning to end, or phases, one after the other.

use super::Mixture;

/// The phases of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    phases: Vec<Phase>,
}

/// A part of a run that draws from one mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Steps of the run before it.
    pub start: usize,
    /// Its steps; the last phase goes on as long as the run does.
    pub steps: usize,
    /// What it is fed.
    pub mixture: Mixture,
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the phase.
    pub phase: usize,
    /// Passes over the phase's mixture before.
    pub epoch: usize,
    /// Steps of this pass before.
    pub index: usize,
}

impl Phase {
    /// Steps of `samples` samples in one pass over the mixture.
    pub fn steps_per_epoch(&self, samples: usize) -> usize {
        self.mixture.samples().div_ceil(samples)
    }
}

impl Course {
    /// One mixture from beginning to end.
    pub fn of(mixture: Mixture) -> Self {
        Self::phases([(mixture, usize::MAX)])
    }

    /// Mixtures one after the other, with their steps.
    pub fn phases(mixtures: impl IntoIterator<Item = (Mixture, usize)>) -> Self {
        let mut start = 0usize;
        let phase = |(mixture, steps)| {
            let phase = Phase { start, steps, mixture };
            start = start.saturating_add(steps);
            phase
        };
        Self {
            phases: mixtures.into_iter().map(phase).collect(),
        }
    }

    /// The phases in order.
    pub fn list(&self) -> &[Phase] {
        &self.phases
    }

    /// The phase of a step.
    pub fn phase_at(&self, step: usize) -> usize {
        let later = self.phases.iter().skip(1).take_while(|phase| phase.start <= step);
        later.count()
    }

    /// Where a step is, with steps of `samples` samples.
    pub fn place(&self, step: usize, samples: usize) -> Place {
        let phase = self.phase_at(step);
        let per_epoch = self.phases[phase].steps_per_epoch(samples).max(1);
        let done = step - self.phases[phase].start;
        Place {
            phase,
            epoch: done / per_epoch,
            index: done % per_epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_phase_an_epoch_and_a_place_in_it() {
        let course = Course::phases([(Mixture::whole(0..10), 5), (Mixture::whole(10..14), 3)]);
        let places: Vec<_> = (0..9)
            .map(|step| course.place(step, 4))
            .map(|p| [p.phase, p.epoch, p.index])
            .collect();
        assert_eq!(
            places,
            [
                [0, 0, 0],
                [0, 0, 1],
                [0, 0, 2],
                [0, 1, 0],
                [0, 1, 1],
                [1, 0, 0],
                [1, 1, 0],
                [1, 2, 0],
                [1, 3, 0]
            ]
        );
        let plain = Course::of(Mixture::whole(0..10));
        assert_eq!(plain.place(1_000_000, 4).phase, 0);
    }
}
