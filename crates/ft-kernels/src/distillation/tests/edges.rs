//! Laws, chunks, types and empty inputs.
use super::*;
use crate::cross_entropy;
use crate::testing::device;

#[test]
fn without_a_teachers_weight_it_is_cross_entropy() {
    let case = Case::new(9, [6, 50], [3, 60]);
    for dtype in [DType::F32, DType::F64] {
        let options = DistillationOptions { alpha: 0.0, ..PLAIN };
        let got = case.run(dtype, case.live(dtype), options, true);
        let [hidden, head] = case.tensors(dtype, true, true);
        let loss = cross_entropy(hidden.clone(), head.clone(), ints(&case.targets, [9]));
        let grads = loss.clone().mul_scalar(0.25).backward();
        let loss = to_vec(loss)[0];
        close(&got.sums[..2], &[loss, loss], 1e-6, "loss");
        close(&got.to_hidden, &gradient(&hidden, &grads).unwrap(), 1e-6, "to hidden");
        close(&got.to_head, &gradient(&head, &grads).unwrap(), 1e-6, "to head");
    }
}

#[test]
fn a_model_learns_nothing_from_itself() {
    let case = Case::new(9, [6, 300], [1, 1]).of_itself();
    for dtype in [DType::F32, DType::F64] {
        for options in divergences() {
            let options = DistillationOptions { alpha: 1.0, ..options };
            let got = case.run(dtype, case.live(dtype), options, true);
            let gradients = got.to_hidden.iter().chain(&got.to_head);
            let worst = gradients.fold(got.sums[0].abs(), |worst, g| worst.max(g.abs()));
            assert!(worst < tolerance(dtype) / 5.0, "{dtype:?} {options:?}: {worst}");
        }
    }
}

/// Rows of two chunks on both paths, whose sizes differ; the teacher's vocabulary is larger.
#[test]
fn chunks_add_up_and_the_portable_composition_agrees_with_the_fused_code() {
    let case = Case::new(crate::cpu::distillation::step(70_000) + 11, [2, 70_000], [3, 70_016]);
    let options = |beta| DistillationOptions {
        beta,
        temperature: 1.5,
        ..PLAIN
    };
    let live = |dtype| case.run(dtype, case.live(dtype), options(0.3), true);
    live(DType::F32).check(&live(DType::F64), 3e-5, "live");
    let cache = |dtype| case.run(dtype, case.cache(dtype, 5, 1.5), options(1.0), true);
    cache(DType::F32).check(&cache(DType::F64), 3e-5, "top k");
}

#[test]
fn large_logits_stay_finite() {
    let mut case = Case::new(2, [1, 2000], [1, 2000]);
    case.hidden = vec![1.0, -1.0];
    case.head = (0..2000).map(|v| f64::from(v) * 0.5 - 400.0).collect();
    case.teacher = [vec![-1.0, 1.0], case.head.clone()];
    for dtype in [DType::F32, DType::F64] {
        for options in divergences() {
            for teacher in [case.live(dtype), case.cache(dtype, 3, options.temperature)] {
                let got = case.run(dtype, teacher, options, true);
                let all = got.sums.iter().chain(&got.to_hidden).chain(&got.to_head);
                assert!(all.into_iter().all(|x| x.is_finite()), "{dtype:?} {options:?}");
            }
        }
    }
}

#[test]
fn sixteen_bits_are_computed_in_f32() {
    let case = Case::new(6, [8, 40], [5, 44]);
    let want = case.run(DType::F64, case.live(DType::F64), PLAIN, true);
    for (hidden_dtype, head_dtype) in [
        (DType::F32, DType::BF16),
        (DType::BF16, DType::BF16),
        (DType::BF16, DType::F32),
    ] {
        let hidden = leaf(&case.hidden, [6, 8], hidden_dtype, true);
        let head = leaf(&case.head, [40, 8], head_dtype, true);
        let teacher = Teacher::Live {
            hidden: leaf(&case.teacher[0], [6, 5], hidden_dtype, false),
            head: leaf(&case.teacher[1], [44, 5], DType::BF16, false).into(),
        };
        let result = distillation(hidden.clone(), head.clone(), ints(&case.targets, [6]), teacher, PLAIN);
        assert_eq!(result.loss.dtype(), DType::F32);
        close(&to_vec(result.loss.clone()), &want.sums[..1], 3e-2, "loss");
        let grads = result.loss.mul_scalar(0.25).backward();
        close(&gradient(&hidden, &grads).unwrap(), &want.to_hidden, 3e-2, "to hidden");
        assert_eq!(hidden.grad(&grads).unwrap().dtype(), hidden_dtype);
        assert_eq!(head.grad(&grads).unwrap().dtype(), head_dtype);
    }
}

#[test]
fn no_rows_give_zero() {
    let case = Case::new(0, [3, 4], [2, 5]);
    for dtype in [DType::F32, DType::F64] {
        for teacher in [case.live(dtype), case.cache(dtype, 2, 1.0)] {
            let got = case.run(dtype, teacher, PLAIN, true);
            assert_eq!((got.sums, got.to_head), ([0.0; 3], vec![0.0; 12]));
        }
    }
}

/// Also where the teacher's tensors are tracked, or not on the student's autodiff device.
#[test]
fn the_teacher_is_a_constant() {
    let case = Case::new(3, [4, 9], [3, 9]);
    let [hidden, head] = case.tensors(DType::F32, true, false);
    let [teacher_hidden, teacher_head] = case.teacher_tensors(DType::F32);
    let teacher_hidden = teacher_hidden.require_grad();
    let run = |hidden: Tensor<2>, teacher_head: Tensor<2>| {
        let teacher = Teacher::Live {
            hidden: teacher_hidden.clone(),
            head: teacher_head.into(),
        };
        distillation(hidden, head.clone(), ints(&case.targets, [3]), teacher, PLAIN).loss
    };
    let loss = run(hidden.clone(), teacher_head.clone().inner());
    let grads = loss.clone().backward();
    assert!(hidden.grad(&grads).is_some() && teacher_hidden.grad(&grads).is_none());
    assert_eq!(loss.device(), device());
    let [untracked, _] = case.tensors(DType::F32, false, false);
    let untracked = run(untracked, teacher_head);
    assert!(!untracked.is_tracked());
    assert_eq!(to_vec(untracked), to_vec(loss));
}

#[test]
#[should_panic(expected = "alpha and beta lie in [0, 1]")]
fn options_outside_their_ranges_are_refused() {
    let case = Case::new(1, [2, 3], [2, 3]);
    let options = DistillationOptions { beta: 1.5, ..PLAIN };
    case.run(DType::F32, case.live(DType::F32), options, false);
}
