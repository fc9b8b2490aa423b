use super::backward_from;
use crate::testing::{backward, device, gradient, leaf, values};
use burn::tensor::{DType, Tensor};

/// The sum of products with a constant has that constant as its gradient.
#[test]
fn it_starts_where_a_sum_of_products_would() {
    let (x, upstream) = (values(12, 1), values(12, 2));
    for plain in [false, true] {
        let run = |known: bool| {
            let x = leaf(&x, [3, 4], DType::F32, true);
            let y = (x.clone() * x.clone()).exp();
            let grads = match known {
                false => backward(y, &upstream),
                true => {
                    let start: Tensor<2> = leaf(&upstream, [3, 4], DType::F32, false);
                    backward_from(y, if plain { start.without_autodiff() } else { start })
                }
            };
            gradient(&x, &grads).unwrap()
        };
        assert_eq!(run(true), run(false));
    }
}

#[test]
#[should_panic(expected = "output and gradient")]
fn shapes_must_be_the_same() {
    let x = leaf(&values(12, 1), [3, 4], DType::F32, true);
    backward_from(x, Tensor::zeros([4, 3], &device()));
}
