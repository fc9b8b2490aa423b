use std::time::Duration;

use crate::{Lost, Ranks, Scattered, even_parts, threads};

/// What each of `size` ranks gives.
fn each<T: Send>(size: usize, run: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let ranks = threads(size, Duration::from_millis(400));
    std::thread::scope(|scope| {
        let started: Vec<_> = ranks.into_iter().map(|ranks| scope.spawn(|| run(ranks))).collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Numbers whose sum depends on the order.
fn numbers(rank: usize, count: usize) -> Vec<f32> {
    let number = |i: usize| ((i * 7919 + rank * 104_729) % 1009) as f32 * 1.1f32.powi(((i + rank) % 60) as i32);
    (0..count).map(number).collect()
}

#[test]
fn bytes_of_all_come_in_the_order_of_the_ranks() {
    for size in 1..=9 {
        let expected: Vec<Vec<u8>> = (0..size).map(|rank| vec![rank as u8; rank * 3]).collect();
        let found = each(size, |ranks| {
            ranks.all_gather(&vec![ranks.rank() as u8; ranks.rank() * 3]).unwrap()
        });
        assert!(found.iter().all(|all| *all == expected), "{size}: {found:?}");
        let found = each(size, |ranks| {
            ranks.gather(&vec![ranks.rank() as u8; ranks.rank() * 3]).unwrap()
        });
        assert_eq!(found[0].as_ref(), Some(&expected));
        assert!(found[1..].iter().all(Option::is_none));
        let found = each(size, |ranks| ranks.broadcast(vec![ranks.rank() as u8 + 5]).unwrap());
        assert_eq!(found, vec![vec![5]; size]);
        let found = each(size, |ranks| ranks.any(ranks.rank() + 1 == size).unwrap());
        assert_eq!(found, vec![true; size]);
        assert_eq!(each(size, |ranks| ranks.any(false).unwrap()), vec![false; size]);
    }
}

#[test]
fn sums_are_those_of_the_stated_order_to_the_bit() {
    for size in 1..=7 {
        for count in [0, 1, 3, 1000, 1025, 4099] {
            let found = each(size, |ranks| {
                let mut own = numbers(ranks.rank(), count);
                ranks.sum(&mut own).unwrap();
                own
            });
            let mut expected = vec![0.0; count];
            let small = count * 4 <= crate::SMALL;
            for (k, part) in even_parts(count, size).into_iter().enumerate() {
                for i in part {
                    let first = if small { 0 } else { k };
                    let order = (0..size).map(|step| numbers((first + step) % size, count)[i]);
                    expected[i] = order.reduce(|a, b| a + b).unwrap();
                }
            }
            assert!(
                found.iter().all(|own| *own == expected),
                "{size} ranks, {count} numbers"
            );
        }
    }
}

#[test]
fn parts_of_any_size_are_shared() {
    let parts = [0..5, 5..5, 5..2000, 2000..2003];
    let found = each(4, |ranks| {
        let mut own = vec![-1.0; 2003];
        for i in parts[ranks.rank()].clone() {
            own[i] = i as f32;
        }
        ranks.share(&mut own, &parts).unwrap();
        own
    });
    let expected: Vec<f32> = (0..2003).map(|i| i as f32).collect();
    assert!(found.iter().all(|own| *own == expected));
}

struct Kept {
    own: Vec<f32>,
    sums: Vec<Option<f32>>,
}

impl Scattered for Kept {
    fn read(&mut self, range: std::ops::Range<usize>, into: &mut [f32]) {
        into.copy_from_slice(&self.own[range]);
    }

    fn keep(&mut self, range: std::ops::Range<usize>, sums: &[f32]) {
        for (i, sum) in range.zip(sums) {
            assert_eq!(self.sums[i].replace(*sum), None, "{i} came twice");
        }
    }
}

#[test]
fn scattered_sums_are_those_of_all_to_the_bit() {
    for (size, count) in [(2, 4099), (3, 4099), (4, 30), (5, 1025), (7, 2000)] {
        // Whose they are: not the equal parts, one rank has nothing, and the last numbers are nobody's.
        let cuts: Vec<usize> = (0..=size).map(|k| (count - 3) * k * k / (size * size)).collect();
        let mut kept: Vec<_> = cuts.windows(2).map(|ends| ends[0]..ends[1]).collect();
        kept[size - 1].start = kept[size - 1].end;
        kept.rotate_left(1);
        for round in [1, 40, 1 << 20] {
            let found = each(size, |ranks| {
                let own = numbers(ranks.rank(), count);
                let mut whole = own.clone();
                ranks.sum(&mut whole).unwrap();
                let sums = vec![None; count];
                let mut scattered = Kept { own, sums };
                ranks.scatter(count, &kept, round, &mut scattered).unwrap();
                (whole, scattered.sums)
            });
            for (rank, (whole, sums)) in found.iter().enumerate() {
                for i in 0..count {
                    let expected = kept[rank].contains(&i).then_some(whole[i]);
                    assert_eq!(sums[i], expected, "{size} ranks, rank {rank}, {i} of {count}");
                }
            }
        }
    }
}

#[test]
fn who_hangs_is_named_and_who_has_ended_too() {
    let found = each(3, |ranks| {
        if ranks.rank() == 1 {
            std::thread::sleep(Duration::from_millis(1500));
        }
        ranks.all_gather(&[1]).map(|_| ())
    });
    assert!(matches!(found[0], Err(Lost::Silent { rank: 1, .. })), "{found:?}");
    let found = each(2, |ranks| match ranks.rank() {
        1 => Ok(()),
        _ => ranks.any(false).map(|_| ()),
    });
    assert_eq!(found[0], Err(Lost::Gone { rank: 1 }));
    let found = each(2, |ranks| match ranks.rank() {
        1 => ranks.sum(&mut [0.0; 2000]),
        _ => ranks.sum(&mut [0.0; 3000]),
    });
    assert!(
        found.iter().any(|of| matches!(of, Err(Lost::OutOfStep { .. }))),
        "{found:?}"
    );
}

#[test]
fn a_watch_is_told_for_whom_it_waits() {
    let told = std::sync::Mutex::new(Vec::new());
    each(2, |ranks| {
        if ranks.is_first() {
            let (sender, receiver) = std::sync::mpsc::channel();
            ranks.set_watch(move |waiting| {
                let _ = sender.send(waiting.on);
            });
            ranks.any(false).unwrap();
            told.lock().unwrap().extend(receiver.try_iter());
        } else {
            std::thread::sleep(Duration::from_millis(250));
            ranks.any(false).unwrap();
        }
    });
    assert_eq!(told.lock().unwrap().first(), Some(&1));
}

#[test]
fn the_speed_of_messages_is_measured() {
    assert_eq!(Ranks::alone().measure().unwrap(), None);
    let speed = crate::threads(2, Duration::from_secs(30));
    let found: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = speed
            .into_iter()
            .map(|ranks| scope.spawn(move || ranks.measure()))
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap().unwrap())
            .collect()
    });
    assert!(
        found.iter().all(|speed| speed.latency > 0.0 && speed.bandwidth > 1e6),
        "{found:?}"
    );
}
