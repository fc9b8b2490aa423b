//! Products and attention whose rows do not depend on each other's number.
use std::cell::Cell;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

/// Runs `compute` so that on the CPU every row of a product, and every query of attention, is summed in the same order however many
/// rows or queries a call has: the same bits alone and among others. Elsewhere nothing changes.
///
/// Without it, one to eight rows are computed as dot products and more of them in register tiles, and attention packs keys from the
/// fifth query on; these sum in different orders. It holds for this thread, which must be the one that calls the operations.
pub fn row_invariant<T>(compute: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }
    let _before = Before(ON.replace(true));
    compute()
}

/// Whether the caller runs inside of [`row_invariant`].
#[cfg(feature = "flex")]
pub(crate) fn on() -> bool {
    ON.get()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::{Mask, Past, attention, attention_apart, linear};
    use burn::tensor::{Device, Distribution, FloatDType, Tensor};

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
        x.into_data().convert::<f32>().iter::<f32>().map(f32::to_bits).collect()
    }

    #[test]
    fn a_row_of_a_product_is_the_same_among_any_number_of_others() {
        // Deep and flat products, narrow and wide ones, with remainders everywhere.
        for (input, out) in [(131, 77), (700, 40), (8, 200), (33, 9), (1500, 3)] {
            let x = random([41, input]);
            for dtype in [FloatDType::F32, FloatDType::BF16, FloatDType::F16] {
                let w = random([out, input]).cast(dtype);
                let all = row_invariant(|| linear(x.clone(), w.clone()));
                for (from, rows) in [(0, 1), (3, 2), (4, 3), (5, 8), (7, 9), (20, 21)] {
                    let some = row_invariant(|| linear(x.clone().narrow(0, from, rows), w.clone()));
                    let same = all.clone().narrow(0, from, rows);
                    assert_eq!(bits(some), bits(same), "{input} {out} {rows} {dtype:?}");
                }
            }
        }
    }

    #[test]
    fn a_query_is_the_same_in_any_chunk() {
        let (q, k, v) = (random([1, 40, 4, 16]), random([1, 640, 2, 16]), random([1, 640, 2, 16]));
        let mask = |offset| Mask {
            offset,
            window: Some(530),
            ..Mask::default()
        };
        let part = |from: usize, queries: usize| {
            let keys = 600 + from + queries;
            row_invariant(|| {
                let (k, v) = (k.clone().narrow(1, 0, keys), v.clone().narrow(1, 0, keys));
                attention(q.clone().narrow(1, from, queries), k, v, &mask(600 + from), 0.25)
            })
        };
        let all = part(0, 40);
        for (from, queries) in [(0, 1), (9, 4), (10, 5), (30, 10), (39, 1)] {
            assert_eq!(
                bits(part(from, queries)),
                bits(all.clone().narrow(1, from, queries)),
                "{from} {queries}"
            );
        }
    }

    #[test]
    fn sequences_side_by_side_get_what_each_gets_alone() {
        let q = random([18, 1, 6, 20]);
        // Queries, columns before them, and learned ones before those.
        let cases = [
            (1, 700, 0, None),
            (9, 0, 0, None),
            (1, 40, 5, Some(7)),
            (6, 530, 0, Some(20)),
            (1, 0, 3, None),
        ];
        let held: Vec<[Tensor<4>; 2]> = cases
            .iter()
            .map(|(queries, offset, prefix, _)| [(); 2].map(|()| random([1, prefix + offset + queries, 2, 20])))
            .collect();
        let pasts = || {
            let cases = cases.iter().zip(held.clone());
            cases.map(|((queries, offset, prefix, window), [keys, values])| Past {
                keys,
                values,
                queries: *queries,
                mask: Mask {
                    offset: *offset,
                    window: *window,
                    prefix: *prefix,
                    ..Mask::default()
                },
            })
        };
        let together = row_invariant(|| attention_apart(q.clone(), pasts().collect(), 0.3));
        let unfused = attention_apart(q.clone(), pasts().collect(), 0.3);
        let difference = (together.clone() - unfused).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
        let mut start = 0;
        for past in pasts() {
            let own = q.clone().narrow(0, start, past.queries).swap_dims(0, 1);
            let alone = row_invariant(|| attention(own, past.keys, past.values, &past.mask, 0.3));
            let same = together.clone().narrow(0, start, past.queries).swap_dims(0, 1);
            assert_eq!(bits(alone), bits(same), "{start}");
            start += past.queries;
        }
    }

    #[test]
    fn it_ends_with_the_call() {
        assert!(row_invariant(on) && !on());
        let broken = std::panic::catch_unwind(|| row_invariant(|| panic!("inside")));
        assert!(broken.is_err() && !on());
    }
}
