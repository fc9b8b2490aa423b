//! The update of a matrix in host memory, in place.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::Numbers;
use crate::host;

impl Numbers<'_> {
    /// The update of a matrix of f32 values in host memory: one pass for the means, one for the size of the update, one
    /// that takes it.
    pub(super) fn on_host<const D: usize>(
        &self,
        param: Tensor<D>,
        grad: Tensor<D>,
        means: [Tensor<D>; 2],
    ) -> (Tensor<D>, [Tensor<D>; 2]) {
        let (numbers, cols) = (param.shape().num_elements(), param.dims()[D - 1]);
        let scale = match self.rule.scale_parameter {
            true => (host::sum_of_squares(param.clone()) / numbers as f64)
                .sqrt()
                .max(self.rule.eps[1]),
            false => 1.0,
        };
        let rate = self.rate * scale;
        host::whole(param, grad, means, |param, grad, [row, col]| {
            self.mix(grad, row, col);
            let mean = row.iter().map(|r| f64::from(*r)).sum::<f64>() / row.len() as f64;
            let by_row: Vec<f32> = row
                .iter()
                .map(|r| (f64::from(*r) / mean).sqrt().recip() as f32)
                .collect();
            let by_col: Vec<f32> = col.iter().map(|c| c.sqrt().recip()).collect();

            let chunk = host::rows_per_chunk(cols);
            let squares: Vec<f64> = (grad.par_chunks(chunk * cols).zip(by_row.par_chunks(chunk)))
                .map(|(grad, by_row)| sum_of_squares(grad, by_row, &by_col))
                .collect();
            let rms = (squares.iter().sum::<f64>() / numbers as f64).sqrt();
            let step = (rate / (rms / self.rule.clip_threshold).max(1.0)) as f32;
            let keep = (1.0 - self.rule.weight_decay * rate) as f32;
            (param
                .par_chunks_mut(chunk * cols)
                .zip(grad.par_chunks(chunk * cols))
                .zip(by_row.par_chunks(chunk)))
            .for_each(|((param, grad), by_row)| take_step_down(param, grad, by_row, &by_col, [keep, step]));
        })
    }

    /// Takes a gradient into the running means of its rows and columns.
    fn mix(&self, grad: &[f32], row: &mut [f32], col: &mut [f32]) {
        let (rows, cols, eps) = (row.len(), col.len(), self.rule.eps[0]);
        let mix = |mean: &mut f32, sum: f64, count: usize| {
            *mean = (self.beta * f64::from(*mean) + (1.0 - self.beta) * (sum / count as f64 + eps)) as f32;
        };
        let chunk = host::rows_per_chunk(cols);
        let partial: Vec<Vec<f64>> = (grad.par_chunks(chunk * cols).zip(row.par_chunks_mut(chunk)))
            .map(|(grad, row)| {
                let mut sums = vec![0f64; cols];
                for (grad, mean) in grad.chunks(cols).zip(row) {
                    let mut sum = 0f64;
                    for (g, of_col) in grad.iter().zip(&mut sums) {
                        let square = f64::from(*g) * f64::from(*g);
                        *of_col += square;
                        sum += square;
                    }
                    mix(mean, sum, cols);
                }
                sums
            })
            .collect();
        for (index, mean) in col.iter_mut().enumerate() {
            mix(mean, partial.iter().map(|sums| sums[index]).sum(), rows);
        }
    }
}

/// Of the normalized update of some rows.
fn sum_of_squares(grad: &[f32], by_row: &[f32], by_col: &[f32]) -> f64 {
    let row = |(grad, r): (&[f32], &f32)| -> f64 {
        let update = grad.iter().zip(by_col).map(|(g, c)| f64::from(r * c * g));
        update.map(|u| u * u).sum()
    };
    grad.chunks(by_col.len()).zip(by_row).map(row).sum()
}

fn take_step_down(param: &mut [f32], grad: &[f32], by_row: &[f32], by_col: &[f32], [keep, step]: [f32; 2]) {
    let cols = by_col.len();
    for ((param, grad), r) in param.chunks_mut(cols).zip(grad.chunks(cols)).zip(by_row) {
        for ((p, g), c) in param.iter_mut().zip(grad).zip(by_col) {
            *p = keep * *p - step * (r * c * g);
        }
    }
}
