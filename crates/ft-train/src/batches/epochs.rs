//! The steps of an epoch, in their order.

use ft_data::{Order, sub_seed};

use super::Batches;

impl Batches {
    /// [`epoch_of`](Self::epoch_of) a run that has one phase.
    pub fn epoch(&self, epoch: usize) -> Vec<Vec<usize>> {
        self.epoch_of(0, epoch)
    }

    /// What every step of an epoch of a phase is made of: samples, or packed rows, by number. An order that is not shuffled is the user's, and stays as it is.
    pub fn epoch_of(&self, phase: usize, epoch: usize) -> Vec<Vec<usize>> {
        let seed = match phase {
            0 => self.seed,
            _ => sub_seed(self.seed, &format!("phase {phase}")),
        };
        let mixture = &self.course.list()[phase].mixture;
        let lists = mixture.lists(epoch, seed, self.shuffle).into_iter();
        let ordered = lists.map(|rows| self.ordered(&rows, seed, epoch as u64));
        let mut step_batches: Vec<Vec<usize>> = match mixture.is_sequential() {
            false => ordered.flatten().collect(),
            // The step at a border has samples of both sides.
            true => {
                let rows = ordered.flatten().collect::<Vec<_>>().concat();
                rows.chunks(self.step_samples()).map(<[usize]>::to_vec).collect()
            }
        };
        let moves = self.shuffle && self.longest_first && !mixture.is_sequential();
        if epoch == 0 && moves && !step_batches.is_empty() {
            let (step, _) = self.largest_of(step_batches.iter().enumerate(), self.batch_size);
            step_batches.swap(0, step);
        }
        step_batches
    }

    /// Step batches of these samples or rows, of similar length each.
    fn ordered(&self, rows: &[usize], seed: u64, epoch: u64) -> Vec<Vec<usize>> {
        let items = self.items();
        let lengths: Vec<usize> = rows.iter().map(|row| items[*row]).collect();
        let order = Order::epoch(&lengths, self.step_samples(), seed, epoch, self.shuffle);
        let named = |step: Vec<usize>| step.into_iter().map(|i| rows[i]).collect();
        order.into_iter().map(named).collect()
    }
}
