use crate::testing::{device, values};
use crate::{Mask, attention, rope, rotary_attention};
use burn::tensor::{DType, Tensor, TensorData};

/// The output, and the gradients to q, k and v, of which some are trained.
fn run(dtype: DType, [b, s, hq, hkv, d]: [usize; 5], trained: [bool; 3], fused: bool) -> Vec<Option<TensorData>> {
    let of = |seed, heads| {
        let data = TensorData::new(values(b * s * heads * d, seed), [b, s, heads, d]);
        Tensor::<4>::from_data(data, (&device(), dtype))
    };
    let inputs = [
        (of(1, hq), trained[0]),
        (of(2, hkv), trained[1]),
        (of(3, hkv), trained[2]),
    ];
    let [q, k, v] = inputs.map(|(x, trained)| if trained { x.require_grad() } else { x });
    let angles = Tensor::<3>::from_data(TensorData::new(values(s * d / 2, 4), [1, s, d / 2]), (&device(), dtype));
    let [cos, sin] = [angles.clone().cos(), angles.sin()];
    let (mask, scale) = (Mask::default(), 0.3);
    let out = match fused {
        true => rotary_attention(q.clone(), k.clone(), v.clone(), [cos, sin], &mask, scale),
        false => {
            let [q, k] = [&q, &k].map(|x| rope(x.clone(), cos.clone(), sin.clone()));
            attention(q, k, v.clone(), &mask, scale)
        }
    };
    let gradients = (out.clone() * of(5, hq)).sum().backward();
    let inputs = [q, k, v].map(|x| x.grad(&gradients).map(Tensor::into_data));
    [Some(out.into_data())].into_iter().chain(inputs).collect()
}

#[test]
fn it_is_bit_by_bit_the_rotations_and_attention() {
    for dtype in [DType::F32, DType::F64] {
        for trained in [
            [true; 3],
            [true, false, true],
            [false, true, false],
            [false, false, true],
        ] {
            for dims in [[1, 1, 1, 1, 2], [2, 7, 4, 2, 6], [1, 40, 2, 2, 64]] {
                let [got, want] = [true, false].map(|fused| run(dtype, dims, trained, fused));
                assert_eq!(got, want, "{dtype:?}, {trained:?}, {dims:?}");
                assert_eq!(got.iter().skip(1).map(Option::is_some).collect::<Vec<_>>(), trained);
            }
        }
    }
}
