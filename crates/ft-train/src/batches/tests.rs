use super::*;

fn batches(lengths: &[usize], cut: [usize; 2], shuffle: bool, longest_first: bool) -> Batches {
    let sample = |length: &usize| Sample::new(vec![1; *length], vec![true; *length]);
    let pad = Padding { id: 0, multiple: 1 };
    Batches::new(
        lengths.iter().map(sample).collect(),
        cut,
        shuffle,
        longest_first,
        3,
        pad,
    )
}

fn lengths() -> Vec<usize> {
    (0..403).map(|i| 2 + (i * 7919) % 97).collect()
}

#[test]
fn the_first_window_of_a_run_is_the_largest_and_nothing_else_moves() {
    let lengths = lengths();
    let longest = *lengths.iter().max().unwrap();
    let [with, without] = [true, false].map(|first| batches(&lengths, [4, 2], true, first));
    assert_eq!(with.largest_micro_batch(), (4, longest));
    assert_eq!((with.step_of_largest(), with.steps_per_epoch()), (1, 51));
    assert_ne!(without.step_of_largest(), 1);
    let (mut moved, kept) = (with.epoch(0), without.epoch(0));
    moved.swap(0, without.step_of_largest() - 1);
    assert_eq!(moved, kept, "two step batches have changed places");
    assert_eq!(with.epoch(1), without.epoch(1), "later epochs are as they were");

    // However the step batches are cut, they come in one order.
    for cut in [[8, 1], [2, 4], [1, 8]] {
        assert_eq!(batches(&lengths, cut, true, true).epoch(0), with.epoch(0));
    }
}

#[test]
fn the_largest_is_not_the_longest_where_that_one_is_nearly_alone() {
    // Groups of 64 step batches; the last group is one sample, the longest of all.
    let lengths: Vec<usize> = vec![10; 64 * 4].into_iter().chain([30]).collect();
    let of_seed = |seed| {
        let sample = |length: &usize| Sample::new(vec![1; *length], vec![true; *length]);
        let pad = Padding { id: 0, multiple: 1 };
        Batches::new(lengths.iter().map(sample).collect(), [4, 1], true, true, seed, pad)
    };
    let first = |batches: &Batches| batches.epoch(0)[0].iter().map(|row| lengths[*row]).collect::<Vec<_>>();
    let alone = (0..2000).map(of_seed).find(|batches| {
        let step_batches = batches.epoch(0);
        step_batches.iter().any(|w| w.len() == 1 && lengths[w[0]] == 30)
    });
    let alone = alone.expect("a seed that draws it last");
    assert_eq!((alone.largest_micro_batch(), first(&alone)), ((4, 10), vec![10; 4]));
}

#[test]
fn an_order_that_is_not_shuffled_stays_and_tells_where_its_largest_is() {
    let batches = batches(&[3, 4, 9, 5, 9, 2], [2, 1], false, true);
    assert_eq!(batches.epoch(0), [[0, 1], [2, 3], [4, 5]]);
    assert_eq!((batches.step_of_largest(), batches.largest_micro_batch()), (2, (2, 9)));
    let short = self::batches(&[3, 4, 9, 5, 9, 2], [2, 1], false, true).reaching(1);
    assert_eq!((short.step_of_largest(), short.largest_micro_batch()), (1, (2, 4)));
    assert_eq!(
        (
            super::tests::batches(&[], [2, 1], true, true).epoch(0).len(),
            batches.largest(1)
        ),
        (0, (1, 9))
    );
}

#[test]
fn a_window_cut_again_is_the_window_of_a_run_with_that_size() {
    let (large, small) = (
        batches(&lengths(), [8, 1], true, true),
        batches(&lengths(), [2, 4], true, true),
    );
    let rows = &large.epoch(0)[3];
    let (cut, own) = (large.recut(&large.step_batch(rows, 3), 2), small.step_batch(rows, 3));
    let parts = |w: &StepBatch| {
        w.micro_batches
            .iter()
            .map(|m| (m.batch.clone(), m.dropout_seed))
            .collect::<Vec<_>>()
    };
    assert_eq!(parts(&cut), parts(&own));
    assert_eq!(
        (cut.target_tokens, cut.tokens, cut.micro_batches.len()),
        (own.target_tokens, own.tokens, 4)
    );
}

#[test]
fn packed_rows_hold_every_sample_once_and_epochs_differ_in_their_order_alone() {
    let packed = batches(&lengths(), [2, 2], true, true).packed(Packing::Rows(256), 0);
    let rows = lengths().iter().sum::<usize>().div_ceil(256);
    assert!(packed.steps_per_epoch() <= (rows + 2).div_ceil(4), "rows are full");
    let (count, tokens) = packed.largest_micro_batch();
    assert!(count == 2 && (250..=256).contains(&tokens), "{count} x {tokens}");
    let numbers = |epoch: usize| {
        let steps = packed.epoch(epoch);
        let batches = steps
            .iter()
            .enumerate()
            .map(|(step, rows)| packed.step_batch(rows, step));
        let numbers = batches
            .flat_map(|batch| batch.micro_batches)
            .flat_map(|micro| micro.batch.numbers);
        numbers.collect::<Vec<usize>>()
    };
    let sorted = |mut numbers: Vec<usize>| {
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(sorted(numbers(0)), (0..403).collect::<Vec<_>>());
    assert_eq!(sorted(numbers(1)), (0..403).collect::<Vec<_>>());
    assert_ne!(numbers(0), numbers(1));
    assert_eq!(numbers(1), numbers(1));
}

#[test]
fn passes_share_rows_and_take_the_samples_that_they_would_take_anyway() {
    let (own, shared) = (
        batches(&lengths(), [8, 2], true, true),
        batches(&lengths(), [8, 2], true, true).packed(Packing::Passes(256), 0),
    );
    assert_eq!(own.epoch(1), shared.epoch(1), "steps of one order");
    for (step, samples) in own.epoch(0).iter().enumerate() {
        let (own, shared) = (own.step_batch(samples, step), shared.step_batch(samples, step));
        assert_eq!((own.tokens, own.target_tokens), (shared.tokens, shared.target_tokens));
        for (own, shared) in own.micro_batches.iter().zip(&shared.micro_batches) {
            let (own_batch, batch) = (&own.batch, &shared.batch);
            assert_eq!(
                (&own_batch.numbers, own.dropout_seed),
                (&batch.numbers, shared.dropout_seed)
            );
            assert_eq!(own_batch.targets, batch.targets);
            assert!(batch.rows * batch.width <= own_batch.rows * own_batch.width && batch.width <= 256);
        }
    }
    assert!(shared.cells_per_epoch(0) <= own.cells_per_epoch(0));
    assert_eq!(own.cells_sharing(256, 0), shared.cells_per_epoch(0));
}
