use std::time::Duration;

use crate::{Lost, Ranks, even_parts, threads};

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
