//! Chunks of logits, and the whole operation.
use super::{compare, gpu, rounded, tensor, tensor_of, types};
use crate::cross_entropy::CrossEntropyOps;
use crate::testing::{close, values};
use crate::{cross_entropy, token_nll};
use burn::backend::Dispatch;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};

fn targets(device: &Device, rows: usize, vocab: usize) -> Tensor<1, Int> {
    let targets: Vec<i64> = (0..rows as i64).map(|i| (i * 7919 + 3) % vocab as i64).collect();
    Tensor::from_data(TensorData::new(targets, [rows]), device)
}

#[test]
fn losses_and_gradients_of_chunks() {
    for (dtype, bound) in types() {
        for [rows, vocab] in [[1, 1], [3, 33], [5, 1000], [2, 5003], [300, 12]] {
            let run = |device: &Device, dtype: FloatDType| {
                let device = &device.clone().inner();
                let logits = || {
                    let values = values(rows * vocab, 1).into_iter().map(|x| 8.0 * x).collect();
                    tensor_of(device, &rounded(values), [rows, vocab], dtype).into_dispatch()
                };
                let targets = || targets(device, rows, vocab).into_dispatch();
                let (nll, lse) = Dispatch::softmax_losses(logits(), targets());
                let (same, gradient) = Dispatch::softmax_losses_with_gradient(logits(), targets());
                let scale = tensor(device, &values(rows, 2), [rows]).into_dispatch();
                let scaled = Dispatch::softmax_gradient(logits(), targets(), lse.clone(), scale);
                let vector = |x| Tensor::<1>::from_dispatch(x).into_data();
                let matrix = |x| Tensor::<2>::from_dispatch(x).into_data();
                vec![vector(nll), vector(lse), vector(same), matrix(gradient), matrix(scaled)]
            };
            let names = ["nll", "lse", "nll", "gradient", "scaled gradient"];
            compare(run, dtype, bound, &names, &format!("{rows} x {vocab}"));
        }
    }
}

/// Logits that somebody else holds stay as they are.
#[test]
fn shared_logits_are_not_overwritten() {
    let device = gpu().inner();
    let logits = tensor(&device, &values(4 * 37, 1), [4, 37]);
    let before = super::floats(logits.clone());
    let _ =
        Dispatch::softmax_losses_with_gradient(logits.clone().into_dispatch(), targets(&device, 4, 37).into_dispatch());
    assert_eq!(super::floats(logits), before);
}

#[test]
fn the_whole_operation_equals_that_of_the_cpu() {
    let [n, d, vocab] = [9, 16, 40];
    for head_tracked in [false, true] {
        let run = |device: &Device, dtype: FloatDType| {
            let hidden = tensor_of(device, &values(n * d, 1), [n, d], dtype).require_grad();
            let mut head = tensor_of(device, &values(vocab * d, 2), [vocab, d], dtype);
            if head_tracked {
                head = head.require_grad();
            }
            let targets = targets(&device.clone().inner(), n, vocab);
            let nll = token_nll(hidden.clone(), head.clone(), targets.clone());
            let loss = cross_entropy(hidden.clone(), head.clone(), targets);
            let gradients = loss.clone().mul_scalar(0.25).backward();
            let mut all = vec![
                nll.into_data(),
                loss.into_data(),
                hidden.grad(&gradients).unwrap().into_data(),
            ];
            all.extend(head.grad(&gradients).map(Tensor::into_data));
            all
        };
        let names = ["nll", "loss", "to hidden", "to head"];
        let names = if head_tracked { &names[..] } else { &names[..3] };
        compare(run, FloatDType::F32, 1e-5, names, "the head");
    }
    let nothing = Tensor::<2>::zeros([0, 4], &gpu().inner());
    let head = Tensor::<2>::ones([7, 4], &gpu().inner());
    let nll = token_nll(nothing, head, targets(&gpu().inner(), 0, 7));
    close(&super::floats(nll), &[], 0.0, "no rows");
}
