//! Measures of answers that are labels: accuracy, F1, Matthews' correlation, as scikit-learn 1.9 computes them.
//!
//! Labels are compared as exact match compares texts. Where a prompt has several references, the answer's own label counts as the
//! right one if it is among them, and the first reference otherwise. A label that was never right still counts as a class where it was
//! answered, so that anything else than a label is a mistake.

use std::collections::BTreeMap;

use super::Answer;
use super::exact_match::normalize;
use crate::Settings;

pub(super) const ABOUT_ACCURACY: &str = "share of right labels";
pub(super) const ABOUT_MACRO: &str = "mean over labels of their F1 (scikit-learn's f1_score, average=\"macro\")";
pub(super) const ABOUT_MICRO: &str = "F1 of all labels together (scikit-learn's f1_score, average=\"micro\")";
pub(super) const ABOUT_MATTHEWS: &str =
    "Matthews' correlation coefficient of labels, -1 to 1 (scikit-learn's matthews_corrcoef)";

/// How often a label was right, answered, and both.
#[derive(Clone, Copy, Default)]
struct Label {
    right: usize,
    answered: usize,
    both: usize,
}

impl Label {
    /// 0 for a label that is always missed.
    fn f1(self) -> f64 {
        2.0 * self.both as f64 / (self.right + self.answered).max(1) as f64
    }
}

pub(super) fn accuracy(answers: &[Answer], _: &Settings) -> f64 {
    Tally::answers(answers).accuracy()
}

pub(super) fn macro_f1(answers: &[Answer], _: &Settings) -> f64 {
    Tally::answers(answers).macro_f1()
}

pub(super) fn micro_f1(answers: &[Answer], _: &Settings) -> f64 {
    Tally::answers(answers).total().f1()
}

pub(super) fn matthews(answers: &[Answer], _: &Settings) -> f64 {
    Tally::answers(answers).matthews()
}

/// What every label comes to.
pub(crate) struct Tally<K>(BTreeMap<K, Label>);

impl Tally<String> {
    fn answers(answers: &[Answer]) -> Self {
        Self::of(answers.iter().map(|answer| {
            let answered = normalize(&answer.hypothesis);
            let mut references: Vec<String> = answer.references.iter().map(|text| normalize(text)).collect();
            references.sort_by_key(|reference| *reference != answered);
            (references.into_iter().next().unwrap_or_default(), answered)
        }))
    }
}

impl<K: Ord + Clone> Tally<K> {
    /// Of the right label and the answered one.
    pub(crate) fn of(pairs: impl IntoIterator<Item = (K, K)>) -> Self {
        let mut labels: BTreeMap<K, Label> = BTreeMap::new();
        for (right, answered) in pairs {
            labels.entry(right.clone()).or_default().right += 1;
            let label = labels.entry(answered.clone()).or_default();
            label.answered += 1;
            label.both += usize::from(right == answered);
        }
        Self(labels)
    }

    fn total(&self) -> Label {
        self.0.values().fold(Label::default(), |sum, label| Label {
            right: sum.right + label.right,
            answered: sum.answered + label.answered,
            both: sum.both + label.both,
        })
    }

    pub(crate) fn accuracy(&self) -> f64 {
        let all = self.total();
        all.both as f64 / all.right.max(1) as f64
    }

    pub(crate) fn macro_f1(&self) -> f64 {
        self.0.values().map(|label| label.f1()).sum::<f64>() / self.0.len().max(1) as f64
    }

    /// Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    pub(crate) fn matthews(&self) -> f64 {
        let all = self.total();
        let dot = |of: fn(&Label) -> (usize, usize)| -> f64 {
            let products = self.0.values().map(|label| {
                let (a, b) = of(label);
                a as f64 * b as f64
            });
            products.sum()
        };
        let n = all.right as f64;
        let covariance = all.both as f64 * n - dot(|label| (label.right, label.answered));
        let spread = |of| n * n - dot(of);
        let product = spread(|label| (label.right, label.right)) * spread(|label| (label.answered, label.answered));
        if product == 0.0 {
            0.0
        } else {
            covariance / product.sqrt()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::answer;

    #[test]
    fn several_references_and_answers_that_are_no_label() {
        let settings = Settings::default();
        let answers = [
            answer("yes", &["no", "yes"]),
            answer(" no ", &["no"]),
            answer("maybe", &["no", "yes"]),
            answer("no", &["yes"]),
        ];
        assert_eq!(
            (accuracy(&answers, &settings), micro_f1(&answers, &settings)),
            (0.5, 0.5)
        );
        // yes: 2/3, no: 2/4, maybe: 0.
        assert!((macro_f1(&answers, &settings) - (2.0 / 3.0 + 0.5) / 3.0).abs() < 1e-12);
        let perfect = [answer("a", &["a"]), answer("b", &["b"])];
        assert_eq!(matthews(&perfect, &settings), 1.0);
        assert_eq!(matthews(&perfect[..1], &settings), 0.0, "one class says nothing");
        assert_eq!(macro_f1(&[], &settings), 0.0);
    }
}
