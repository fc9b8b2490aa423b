//! How the forward passes of a step are dealt out among the processes that take it together.

use super::Batches;

/// Which of `ranks` processes has each of these passes, by its cells: the largest first, each to whom has least so far.
pub(crate) fn owners(cells: &[usize], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..cells.len()).collect();
    order.sort_by_key(|pass| std::cmp::Reverse(cells[*pass]));
    let (mut load, mut owners) = (vec![0; ranks.max(1)], vec![0; cells.len()]);
    for pass in order {
        let least = (0..load.len()).min_by_key(|rank| load[*rank]).unwrap_or(0);
        load[least] += cells[pass];
        owners[pass] = least;
    }
    owners
}

impl Batches {
    /// The same for so many processes that take each step together: where its forward passes cannot be shared evenly, its samples are cut into a
    /// number that can.
    pub fn over(&mut self, ranks: usize) {
        self.ranks = ranks.max(1);
    }

    /// Processes that take each step together.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Forward passes of at most `size` samples or rows.
    pub(super) fn passes<'r>(&self, rows: &'r [usize], size: usize) -> Vec<&'r [usize]> {
        cut(rows, size, self.ranks)
    }

    /// What the busiest of `ranks` processes computes of a step, over all of it: the mean over the steps of the first epoch. 1 / `ranks` is best.
    pub fn busiest(&self, ranks: usize) -> f64 {
        let size = self.batch_size;
        let steps = self.first_epochs();
        let share = |rows: &Vec<usize>| {
            let passes = cut(rows, size, ranks);
            let cells: Vec<usize> = passes
                .iter()
                .map(|items| self.shape(&self.packed, items))
                .map(|(r, w)| r * w)
                .collect();
            let mut load = vec![0; ranks.max(1)];
            owners(&cells, ranks)
                .into_iter()
                .zip(&cells)
                .for_each(|(owner, cells)| load[owner] += cells);
            let whole = cut(rows, size, 1)
                .iter()
                .map(|items| self.shape(&self.packed, items))
                .map(|(r, w)| r * w)
                .sum::<usize>();
            load.into_iter().max().unwrap_or(0) as f64 / whole.max(1) as f64
        };
        steps.iter().map(share).sum::<f64>() / steps.len().max(1) as f64
    }

    /// Tokens of a step, padding left out: the mean over an epoch.
    pub fn step_tokens(&self) -> f64 {
        let steps = self.first_epochs();
        let samples = self.packed.layout(&steps.concat()).concat();
        let tokens: usize = samples.iter().map(|i| self.samples[*i].tokens()).sum();
        tokens as f64 / steps.len().max(1) as f64
    }
}

fn cut(rows: &[usize], size: usize, ranks: usize) -> Vec<&[usize]> {
    let size = size.max(1);
    if rows.len().div_ceil(size).is_multiple_of(ranks) {
        return rows.chunks(size).collect();
    }
    let count = rows.len().div_ceil(size * ranks) * ranks;
    let at = |pass: usize| rows.len() * pass / count;
    let passes = (0..count).map(|pass| &rows[at(pass)..at(pass + 1)]);
    passes.filter(|pass| !pass.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_those_of_one_process_where_they_can_be_shared_and_even_where_not() {
        let rows: Vec<usize> = (0..14).collect();
        let sizes = |size, ranks| {
            cut(&rows, size, ranks)
                .iter()
                .map(|pass| pass.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(4, 1), [4, 4, 4, 2]);
        assert_eq!(sizes(4, 2), [4, 4, 4, 2]);
        assert_eq!(sizes(4, 3), [2, 2, 3, 2, 2, 3]);
        assert_eq!(sizes(20, 4), [3, 4, 3, 4]);
        assert_eq!(sizes(1, 16).len(), 14);
        for ranks in 1..20 {
            for size in 1..16 {
                let passes = cut(&rows, size, ranks);
                assert_eq!(passes.concat(), rows);
                assert!(passes.iter().all(|pass| pass.len() <= size));
            }
        }
    }

    #[test]
    fn who_has_least_takes_the_next() {
        assert_eq!(owners(&[5, 9, 4, 1], 2), [1, 0, 1, 0]);
        assert_eq!(owners(&[3, 3, 3], 1), [0, 0, 0]);
        assert!(owners(&[], 3).is_empty());
    }
}
