//! A teacher's hidden states beside the student's (DistilBERT: Sanh et al. 2019, arXiv:1910.01108; TinyBERT: Jiao et al. 2020,
//! arXiv:1909.10351, eq. 8), for chosen pairs of layers. A narrower or wider student's
//! go through a map that it learns, one for each pair.

use burn::tensor::{Int, Tensor, TensorData};
use ft_data::Batch;
use ft_model::{Model, ModelConfig};
use ft_peft::Pass;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How hidden states are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HiddenLoss {
    /// 1 - cos of the angle between the two.
    #[default]
    Cosine,
    /// Mean over the width of the squared differences.
    Mse,
}

impl HiddenLoss {
    /// Of each row, `[n]`, of two `[n, hidden]` in f32.
    pub fn rows(self, student: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        match self {
            HiddenLoss::Cosine => {
                let cos = (unit(student) * unit(teacher)).sum_dim(1).squeeze_dim::<1>(1);
                cos.neg().add_scalar(1.0)
            }
            HiddenLoss::Mse => (student - teacher).square().mean_dim(1).squeeze_dim(1),
        }
    }
}

/// Rows of length 1, `[n, hidden]`.
fn unit(x: Tensor<2>) -> Tensor<2> {
    // The square of torch's smallest length; held before the root, whose slope at 0 is no number.
    const SMALLEST: f64 = 1e-16;
    let length = x.clone().square().sum_dim(1).clamp_min(SMALLEST).sqrt();
    x / length
}

/// A pair of layers: how many of the student's blocks and how many of the teacher's.
pub type LayerPair = [usize; 2];

/// What is wrong with pairs of layers by themselves.
pub fn check(pairs: &[LayerPair]) -> Vec<String> {
    let wrong = |why: String| vec![format!("objective.hidden_layers: {why}")];
    if let Some([student, teacher]) = pairs.iter().find(|pair| pair.contains(&0)) {
        return wrong(format!(
            "[{student}, {teacher}]: layers count from 1, the output of the first block"
        ));
    }
    let mut students: Vec<usize> = pairs.iter().map(|[student, _]| *student).collect();
    students.sort_unstable();
    match students.windows(2).find(|two| two[0] == two[1]) {
        Some(twice) => wrong(format!("the student's layer {} is there twice", twice[0])),
        None => Vec::new(),
    }
}

/// Why these pairs are none of these two models.
pub fn unfit(pairs: &[LayerPair], student: &ModelConfig, teacher: &ModelConfig) -> Vec<String> {
    if pairs.is_empty() {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let sides = [("student", student), ("teacher", teacher)];
    for (side, (name, model)) in sides.into_iter().enumerate() {
        let layers = model.num_hidden_layers;
        if let Some(pair) = pairs.iter().find(|pair| pair[side] > layers) {
            wrong.push(format!(
                "objective.hidden_layers: the {name} has {layers} layers, layer {} is none of them",
                pair[side]
            ));
        }
    }
    wrong
}

/// Hidden states of a model on a plain device that neither trains nor drops anything.
pub struct States {
    /// After the blocks that were asked for, at the cells that were, `[n, hidden]` in f32.
    pub after: Vec<Tensor<2>>,
    /// After the final norm, `[rows, width, hidden]`.
    pub last: Tensor<3>,
}

impl States {
    /// After `layers` blocks, ascending, at these cells; after all of them means after the final norm too, as in transformers' `hidden_states`.
    pub fn of(model: &Model, batch: &Batch, layers: &[usize], cells: &[i32]) -> Self {
        let ids = TensorData::new(batch.ids.clone(), [batch.rows, batch.width]);
        let ids = Tensor::<2, Int>::from_data(ids, &model.device());
        let (rows, pass, blocks) = (model.rows(batch.layout()), Pass::eval(), model.num_blocks());
        let (mut hidden, mut done, mut after) = (model.embed(ids, &rows, &pass), 0, Vec::new());
        for layer in layers.iter().copied().filter(|layer| *layer < blocks) {
            hidden = model.blocks(done..layer, hidden, &rows, &pass);
            done = layer;
            after.push(rows_at(model.without_prompt(hidden.clone(), &rows), cells));
        }
        let last = model.norm(model.blocks(done..blocks, hidden, &rows, &pass), &rows);
        if layers.last() == Some(&blocks) {
            after.push(rows_at(last.clone(), cells));
        }
        Self { after, last }
    }
}

/// Some cells of `[rows, width, hidden]`, `[n, hidden]` in f32.
pub fn rows_at(hidden: Tensor<3>, cells: &[i32]) -> Tensor<2> {
    let cells = Tensor::<1, Int>::from_data(TensorData::new(cells.to_vec(), [cells.len()]), &hidden.device());
    hidden
        .flatten::<2>(0, 1)
        .select(0, cells)
        .cast(burn::tensor::FloatDType::F32)
}
