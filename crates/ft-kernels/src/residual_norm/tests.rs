use crate::testing::{device, values};
use crate::{residual_norm, rms_norm};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// The stream and its norm, and the gradients to x, what is added and the weight; `used` says which of the two outputs reach the loss.
fn run(device: &Device, dtype: DType, used: [bool; 2], joined: bool, fused: bool) -> Vec<TensorData> {
    let of = |seed, dims: [usize; 3]| {
        let data = TensorData::new(values(dims.iter().product(), seed), dims);
        Tensor::<3>::from_data(data, (device, dtype))
    };
    let dims = [2, 3, 10];
    let [x, added] = [1, 2].map(|seed| of(seed, dims).require_grad());
    let weight = of(3, [1, 1, 10]).reshape([10]).detach().require_grad();
    let given = joined.then(|| added.clone());
    let (h, y) = match fused {
        true => residual_norm(x.clone(), given, weight.clone(), 1e-5),
        false => {
            let h = given.map_or(x.clone(), |added| x.clone() + added);
            (h.clone(), rms_norm(h, weight.clone(), 1e-5))
        }
    };
    let parts = [h.clone() * of(4, dims), y.clone() * of(5, dims)];
    let loss = parts
        .into_iter()
        .zip(used)
        .filter(|(_, used)| *used)
        .map(|(x, _)| x.sum());
    let gradients = loss.reduce(|a, b| a + b).expect("one is used").backward();
    let gradient = |x: &Tensor<3>| x.grad(&gradients).map(Tensor::into_data);
    let weight = weight.grad(&gradients).map(Tensor::into_data);
    let all = [gradient(&x), gradient(&added), weight].into_iter().flatten();
    [h.into_data(), y.into_data()].into_iter().chain(all).collect()
}

#[test]
fn it_is_bit_by_bit_the_sum_and_the_norm() {
    for dtype in [DType::F32, DType::F64] {
        for used in [[true, true], [true, false], [false, true]] {
            for joined in [true, false] {
                let [got, want] = [true, false].map(|fused| run(&device(), dtype, used, joined, fused));
                assert_eq!(got, want, "{dtype:?}, {used:?}, {joined}");
                assert_eq!(got.len(), 3 + usize::from(joined) + usize::from(used[1]));
            }
        }
    }
}
