use super::Output;
use crate::frozen_matmul::tests::{CASES, packed};
use crate::testing::{backward, gradient, leaf, to_vec, values};
use crate::{frozen_lora, frozen_matmul_for, linear_for, lora_linear_for};
use burn::tensor::{DType, Tensor};

const DROPOUT: Option<(f64, u64)> = Some((0.3, 11));

/// Runs a product with its output read and unread: the gradients to its leaves are the same to the bit.
fn same(what: &str, leaves: impl Fn() -> Vec<Tensor<2>>, product: impl Fn(&[Tensor<2>], Output) -> Tensor<2>) {
    let run = |output| {
        let leaves = leaves();
        let y = product(&leaves, output);
        let values = to_vec(y.clone());
        let grads = backward(y, &self::values(values.len(), 9));
        let gradients: Vec<_> = leaves.iter().map(|leaf| gradient(leaf, &grads).unwrap()).collect();
        (values, gradients)
    };
    let ((read, want), (unread, got)) = (run(Output::Read), run(Output::Unread));
    assert_eq!(unread, vec![0.0; read.len()], "{what}");
    assert_eq!(got, want, "{what}");
}

fn tracked(dims: [[usize; 2]; 4]) -> [Tensor<2>; 4] {
    std::array::from_fn(|i| leaf(&values(dims[i][0] * dims[i][1], i as u64), dims[i], DType::F32, true))
}

#[test]
fn gradients_do_not_need_the_output() {
    let leaves = || tracked([[5, 18], [7, 18], [3, 18], [7, 3]]);
    same(
        "linear",
        || leaves()[..2].to_vec(),
        |l, output| linear_for(l[0].clone(), l[1].clone(), output),
    );
    for dropout in [None, DROPOUT] {
        same(
            "lora_linear",
            || leaves().to_vec(),
            |l, output| {
                let [x, w, a, b] = std::array::from_fn(|i| l[i].clone());
                lora_linear_for(x, w, a, b, 0.7, dropout, output)
            },
        );
    }
    for (rows, cols, codes, nested) in CASES {
        let (packed, _) = packed(rows, cols, codes, nested);
        let leaves = || tracked([[5, cols], [1, 1], [3, cols], [rows, 3]]);
        same(
            "frozen_matmul",
            || leaves()[..1].to_vec(),
            |l, output| frozen_matmul_for(l[0].clone(), &packed, output),
        );
        for dropout in [None, DROPOUT] {
            same(
                "frozen_lora",
                || {
                    let [x, _, a, b] = leaves();
                    vec![x, a, b]
                },
                |l, output| {
                    let [x, a, b] = std::array::from_fn(|i| l[i].clone());
                    frozen_lora(x, &packed, a, b, 0.7, dropout, output)
                },
            );
        }
    }
}
