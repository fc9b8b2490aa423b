//! What a head says of labelled samples: outputs, loss and metrics.

use std::collections::BTreeMap;

use burn::tensor::{DType, Int, Tensor, TensorData, activation};
use ft_data::{Batch, NO_CLASS, Sample};
use ft_model::{HeadConfig, Model, Pool, Problem};
use ft_peft::Pass;

use crate::correlation::{pearson, spearman};
use crate::metrics::classification::Tally;
use crate::{Error, Result};

/// Outputs `[n, labels]` in f32 of the head, from hidden states after the final norm `[rows, width, hidden]`: of every sequence, or of
/// every token that has a class.
pub fn head_outputs(model: &Model, hidden: Tensor<3>, batch: &Batch) -> Tensor<2> {
    if model.pool() == Pool::Mean {
        return model.head_outputs(means(hidden, batch));
    }
    let cells = cells(model.pool(), batch);
    let at = TensorData::new(cells.clone(), [cells.len()]);
    let at = Tensor::<1, Int>::from_data(at, &hidden.device());
    model.head_outputs(hidden.flatten::<2>(0, 1).select(0, at))
}

/// Means `[sequences, hidden]` over the tokens of every sequence.
fn means(hidden: Tensor<3>, batch: &Batch) -> Tensor<2> {
    let (cells, device) = (batch.rows * batch.width, hidden.device());
    let mut shares = vec![0.0f32; batch.sequences() * cells];
    for (sequence, row) in shares.chunks_exact_mut(cells).enumerate() {
        let own = batch.cells(sequence);
        let share = 1.0 / own.len() as f32;
        row[own].fill(share);
    }
    let shares = Tensor::<2>::from_data(
        TensorData::new(shares, [batch.sequences(), cells]),
        (&device, DType::F32),
    );
    let hidden = hidden.flatten::<2>(0, 1);
    shares
        .cast(burn::tensor::FloatDType::from(hidden.dtype()))
        .matmul(hidden)
}

/// The tokens that a head reads, as indices of cells.
fn cells(pool: Pool, batch: &Batch) -> Vec<i32> {
    let sequences = 0..batch.sequences();
    let cells = sequences.flat_map(|sequence| {
        let cells = batch.cells(sequence);
        match pool {
            Pool::First | Pool::Mean => vec![cells.start],
            Pool::Last => vec![cells.end - 1],
            Pool::Each => {
                let classes = batch.classes[sequence].iter();
                let learned = cells.zip(classes).filter(|(_, class)| **class != NO_CLASS);
                learned.map(|(cell, _)| cell).collect()
            }
        }
    });
    cells.map(|cell| cell as i32).collect()
}

/// What the head is to say, output by output: the number of a class, or a number for every output.
fn labels(batch: &Batch) -> Vec<f32> {
    let all = batch.classes.iter().flatten().copied();
    all.filter(|label| !batch.tagged || *label != NO_CLASS).collect()
}

/// Sum of the losses, `[1]`, of outputs `[n, labels]` for what the batch says, as transformers has them: cross-entropy; the mean over the
/// labels of their binary cross-entropies; the mean over the outputs of their squared errors.
pub fn head_loss(problem: Problem, outputs: Tensor<2>, batch: &Batch) -> Tensor<1> {
    let (device, [n, width], labels) = (outputs.device(), outputs.dims(), labels(batch));
    if problem == Problem::SingleLabelClassification {
        let classes: Vec<i32> = labels.iter().map(|class| *class as i32).collect();
        let classes = Tensor::<2, Int>::from_data(TensorData::new(classes, [n, 1]), &device);
        return activation::log_softmax(outputs, 1).gather(1, classes).sum().neg();
    }
    let labels = Tensor::<2>::from_data(TensorData::new(labels, [n, width]), (&device, DType::F32));
    let losses = match problem {
        // -y log σ(x) - (1 - y) log(1 - σ(x)) = max(x, 0) - x y + log(1 + e^-|x|)
        Problem::MultiLabelClassification => {
            let rest = outputs.clone().abs().neg().exp().log1p();
            activation::relu(outputs.clone()) - outputs * labels + rest
        }
        _ => (outputs - labels).square(),
    };
    losses.sum().div_scalar(width as f64)
}

/// What a head said, and what it should have said.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadAnswers {
    /// What the outputs are.
    pub problem: Problem,
    /// Outputs of one answer.
    pub width: usize,
    /// Row by row. Shape `[n, width]`.
    pub outputs: Vec<f32>,
    /// Classes `[n]`, or a number for every output `[n, width]`.
    pub labels: Vec<f32>,
    /// Numbers of the samples, one for each row, where they are known.
    pub numbers: Vec<usize>,
}

impl HeadAnswers {
    /// The answers for a batch, from outputs `[n, labels]`.
    pub fn of(head: &HeadConfig, outputs: Tensor<2>, batch: &Batch) -> Self {
        Self {
            problem: head.problem,
            width: head.labels.len(),
            outputs: outputs.into_data().iter::<f32>().collect(),
            labels: labels(batch),
            numbers: if batch.tagged {
                Vec::new()
            } else {
                batch.numbers.clone()
            },
        }
    }

    /// These and others of the same head.
    pub fn add(&mut self, other: Self) {
        self.outputs.extend(other.outputs);
        self.labels.extend(other.labels);
        self.numbers.extend(other.numbers);
    }

    /// The class of the highest output of each row.
    pub fn classes(&self) -> Vec<usize> {
        let highest = |row: &[f32]| {
            (0..row.len())
                .rev()
                .max_by(|a, b| row[*a].total_cmp(&row[*b]))
                .unwrap_or(0)
        };
        self.outputs.chunks_exact(self.width.max(1)).map(highest).collect()
    }

    /// Accuracy, macro F1 and Matthews' correlation of classes; accuracy (all of a text's labels right), macro and micro F1 of several
    /// labels; mean squared error, Pearson's and Spearman's correlation of numbers, means over the outputs. As scikit-learn and SciPy
    /// compute them; 0 where one of these has no value.
    pub fn scores(&self) -> BTreeMap<&'static str, f64> {
        match self.problem {
            Problem::SingleLabelClassification => {
                let right = self.labels.iter().map(|class| *class as usize);
                let tally = Tally::of(right.zip(self.classes()));
                BTreeMap::from([
                    ("accuracy", tally.accuracy()),
                    ("macro_f1", tally.macro_f1()),
                    ("matthews", tally.matthews()),
                ])
            }
            Problem::MultiLabelClassification => self.several(),
            Problem::Regression => self.numbers(),
        }
    }

    fn several(&self) -> BTreeMap<&'static str, f64> {
        let width = self.width.max(1);
        // Right, answered, both.
        let mut counts = vec![[0usize; 3]; width];
        let (mut all_right, mut rows) = (0usize, 0usize);
        for (outputs, labels) in self.outputs.chunks_exact(width).zip(self.labels.chunks_exact(width)) {
            let flags = |i: usize| (labels[i] > 0.5, outputs[i] > 0.0);
            for (i, count) in counts.iter_mut().enumerate() {
                let (right, answered) = flags(i);
                [right, answered, right && answered]
                    .into_iter()
                    .zip(count)
                    .for_each(|(flag, sum)| *sum += usize::from(flag));
            }
            all_right += usize::from((0..width).map(flags).all(|(right, answered)| right == answered));
            rows += 1;
        }
        let f1 = |[right, answered, both]: [usize; 3]| 2.0 * both as f64 / (right + answered).max(1) as f64;
        let total = counts
            .iter()
            .fold([0; 3], |sum, own| std::array::from_fn(|i| sum[i] + own[i]));
        BTreeMap::from([
            ("accuracy", all_right as f64 / rows.max(1) as f64),
            (
                "macro_f1",
                counts.iter().map(|own| f1(*own)).sum::<f64>() / width as f64,
            ),
            ("micro_f1", f1(total)),
        ])
    }

    fn numbers(&self) -> BTreeMap<&'static str, f64> {
        let width = self.width.max(1);
        let column = |of: &[f32], at: usize| {
            of.iter()
                .skip(at)
                .step_by(width)
                .map(|x| f64::from(*x))
                .collect::<Vec<_>>()
        };
        let mean = |of: &dyn Fn(&[f64], &[f64]) -> f64| {
            let columns = (0..width).map(|at| of(&column(&self.outputs, at), &column(&self.labels, at)));
            columns.sum::<f64>() / width as f64
        };
        let squared = |a: &[f64], b: &[f64]| {
            let errors = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y));
            errors.sum::<f64>() / a.len().max(1) as f64
        };
        BTreeMap::from([
            ("mse", mean(&squared)),
            ("pearson", mean(&pearson)),
            ("spearman", mean(&spearman)),
        ])
    }
}

/// How well a head does.
#[derive(Clone, Debug)]
pub struct HeadReport {
    /// Mean loss: of a text, or of a token that has a class.
    pub loss: f64,
    /// Of how many of them.
    pub count: usize,
    /// What was said.
    pub answers: HeadAnswers,
}

/// Measures the head of a model (on a plain device) on labelled samples, in batches of `batch_size`.
///
/// # Errors
/// Samples that the model cannot take; none at all; a model that yields NaN.
pub fn head_report(
    model: &Model,
    samples: &[Sample],
    batch_size: usize,
    multiple: usize,
    progress: &mut dyn FnMut(f64),
) -> Result<HeadReport> {
    crate::check(model, samples)?;
    let head = model.head().expect("a model with a head").clone();
    let mut order: Vec<usize> = (0..samples.len()).filter(|i| samples[*i].is_labelled()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(samples[*i].len()));
    let (mut sum, mut count, mut all) = (0.0, 0, None::<HeadAnswers>);
    for numbers in order.chunks(batch_size.max(1)) {
        let chunk: Vec<&Sample> = numbers.iter().map(|i| &samples[*i]).collect();
        let batch = Batch::new(&chunk, 0, multiple).numbered(numbers);
        let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
        let ids = Tensor::<2, Int>::from_data(ids, &model.device());
        let hidden = model.forward(ids, &model.rows(batch.layout()), None, &Pass::eval());
        let outputs = head_outputs(model, hidden, &batch);
        sum += head_loss(head.problem, outputs.clone(), &batch).into_scalar::<f32>() as f64;
        count += batch.labelled();
        let answers = HeadAnswers::of(&head, outputs, &batch);
        match &mut all {
            None => all = Some(answers),
            Some(all) => all.add(answers),
        }
        progress(count as f64 / order.len().max(1) as f64);
    }
    match all {
        None => Err(Error::NothingToPredict),
        Some(_) if !sum.is_finite() => Err(Error::NotFinite),
        Some(answers) => Ok(HeadReport {
            loss: sum / count.max(1) as f64,
            count,
            answers,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(problem: Problem, width: usize, outputs: &[f32], labels: &[f32]) -> HeadAnswers {
        HeadAnswers {
            problem,
            width,
            outputs: outputs.to_vec(),
            labels: labels.to_vec(),
            numbers: Vec::new(),
        }
    }

    fn near(scores: &BTreeMap<&'static str, f64>, name: &str, value: f64) {
        assert!(
            (scores[name] - value).abs() < 1e-9,
            "{name}: {scores:?}, {value} expected"
        );
    }

    // Values of scikit-learn 1.9 and SciPy: tests/fixtures/heads/metrics.py.
    #[test]
    fn scores_are_those_of_scikit_learn_and_scipy() {
        let outputs = [
            2.0, 1.0, 0.0, 0.0, 1.0, 0.5, 0.1, 0.2, 0.3, 3.0, 1.0, 2.0, 0.0, 2.0, 1.0,
        ];
        let scores = answers(
            Problem::SingleLabelClassification,
            3,
            &outputs,
            &[0.0, 1.0, 2.0, 1.0, 2.0],
        )
        .scores();
        near(&scores, "accuracy", 0.6);
        near(&scores, "macro_f1", 0.611111111111111);
        near(&scores, "matthews", 0.4375);
        let outputs = [1.0, -1.0, 2.0, -1.0, 1.0, 1.0, -1.0, -1.0, 0.5, 1.0, -2.0, -1.0];
        let labels = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0];
        let scores = answers(Problem::MultiLabelClassification, 3, &outputs, &labels).scores();
        near(&scores, "accuracy", 0.5);
        near(&scores, "macro_f1", 0.8222222222222223);
        near(&scores, "micro_f1", 0.8333333333333334);
        let scores = answers(
            Problem::Regression,
            1,
            &[1.0, 2.5, 2.5, 4.0, 3.0],
            &[1.0, 2.0, 3.0, 5.0, 2.0],
        )
        .scores();
        near(&scores, "mse", 0.5);
        near(&scores, "pearson", 0.8668261671582749);
        near(&scores, "spearman", 0.7631578947368421);
    }
}
