//! Caches of a teacher's best tokens.
use super::*;
use crate::distillation::teacher_topk;

fn integers(ids: burn::tensor::Tensor<2, burn::tensor::Int>) -> Vec<i64> {
    ids.into_data().convert::<i64>().try_to_vec().unwrap()
}

#[test]
fn all_tokens_are_a_live_teacher() {
    for (case, dtype) in [11, 13, 16]
        .map(|vocab| Case::new(6, [4, 13], [3, vocab]))
        .iter()
        .flat_map(|case| [DType::F32, DType::F64].map(|dtype| (case, dtype)))
    {
        for options in divergences() {
            let cache = case.cache(dtype, case.common(), options.temperature);
            let got = case.run(dtype, cache, options, true);
            let want = case.run(dtype, case.live(dtype), options, true);
            got.check(&want, tolerance(dtype), &format!("{dtype:?} {options:?}"));
        }
    }
}

/// Log-softmax of the common rows, sorted; more tokens than the selection's room, and rows in several chunks.
#[test]
fn the_best_come_first_with_their_log_probabilities() {
    let chunk = crate::cpu::distillation::step(70_000);
    let case = Case::new(chunk + 2, [2, 70_000], [2, 70_001]);
    let y = times_transposed(&case.teacher[0], &case.teacher[1], 2);
    let [hidden, head] = case.teacher_tensors(DType::F32);
    let (ids, log_probs) = teacher_topk(hidden, head, 300, 2.0, 70_000);
    assert_eq!((ids.dims(), log_probs.dims()), ([chunk + 2, 300], [chunk + 2, 300]));
    assert!(!log_probs.is_autodiff(), "a constant");
    let (ids, log_probs) = (integers(ids), to_vec(log_probs));
    for row in [0, chunk - 1, chunk, chunk + 1] {
        let y = &y[row * 70_001..][..70_000];
        let lse = y.iter().map(|y| (y / 2.0).exp()).sum::<f64>().ln();
        let mut sorted: Vec<f64> = y.iter().map(|y| y / 2.0 - lse).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let (ids, log_probs) = (&ids[row * 300..][..300], &log_probs[row * 300..][..300]);
        close(log_probs, &sorted[..300], 1e-5, "sorted");
        let own: Vec<f64> = ids.iter().map(|&id| y[id as usize] / 2.0 - lse).collect();
        close(log_probs, &own, 1e-5, "of the ids");
        let mut distinct = ids.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 300);
    }
}

#[test]
fn equal_logits_are_taken_in_order() {
    for dtype in [DType::F32, DType::F64] {
        let (hidden, head) = (
            leaf(&[1.0], [1, 1], dtype, false),
            leaf(&[0.5; 1000], [1000, 1], dtype, false),
        );
        let (ids, log_probs) = teacher_topk(hidden, head, 3, 1.0, 900);
        assert_eq!(integers(ids), [0, 1, 2]);
        close(&to_vec(log_probs), &[-(900f64.ln()); 3], 1e-6, "log_probs");
    }
}

#[test]
fn the_portable_selection_agrees_with_the_fused_one() {
    let case = Case::new(40, [3, 500], [5, 700]);
    let run = |dtype| {
        let [hidden, head] = case.teacher_tensors(dtype);
        let (ids, log_probs) = teacher_topk(hidden, head, 20, 0.7, 500);
        (integers(ids), to_vec(log_probs))
    };
    let (fused, portable) = (run(DType::F32), run(DType::F64));
    assert_eq!(fused.0, portable.0);
    close(&fused.1, &portable.1, 1e-5, "log_probs");
}

/// The first tokens hold all mass that f32 can tell from 1, for the teacher and for the student.
#[test]
fn an_empty_tail_is_harmless() {
    for dtype in [DType::F32, DType::F64] {
        let mut case = Case::new(2, [1, 50], [1, 50]);
        case.hidden = vec![1.0, 30.0];
        case.head = (0..50).map(|v| if v < 2 { 8.0 - f64::from(v) } else { -8.0 }).collect();
        case = case.of_itself();
        case.targets = vec![0, 1];
        for options in divergences() {
            let got = case.run(dtype, case.cache(dtype, 2, options.temperature), options, true);
            assert!(got.sums[2].abs() < 1e-4, "{dtype:?} {options:?}: {}", got.sums[2]);
            assert!(got.to_hidden.iter().chain(&got.to_head).all(|g| g.is_finite()));
        }
    }
}

#[test]
#[should_panic(expected = "teacher's id 7 outside 6 rows")]
fn an_id_outside_the_common_rows_is_named() {
    let case = Case::new(1, [2, 9], [2, 9]);
    let teacher = Teacher::TopK {
        ids: ints(&[1, 7], [1, 2]),
        log_probs: leaf(&[-1.0, -2.0], [1, 2], DType::F32, false),
        common: 6,
    };
    case.run(DType::F32, teacher, PLAIN, false);
}
