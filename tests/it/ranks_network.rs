//! What messages take over a network of a given latency and bandwidth, in its own time: every rank has a clock that only messages move, so
//! that no processor has a part in it.

use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ft_ranks::{Link, Lost, ROUND, Ranks, Scattered, even_parts, latencies};
use ft_train::plan::Network;

/// Bytes, and when they are there.
type Message = (Vec<u8>, f64);

/// One rank's end. A message leaves once those before it have left, bytes over bandwidth; it is there as many latencies later as such a message takes.
struct Timed {
    rank: usize,
    network: Network,
    clock: Arc<Mutex<f64>>,
    /// When the last message will have left.
    left: f64,
    to: Vec<Sender<Message>>,
    from: Vec<Receiver<Message>>,
}

impl Link for Timed {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn send(&mut self, to: usize, bytes: Vec<u8>) -> Result<(), Lost> {
        let now = *self.clock.lock().unwrap();
        self.left = self.left.max(now) + bytes.len() as f64 / self.network.bandwidth;
        let latency = self.network.latency * latencies(bytes.len() as u64) as f64;
        let there = self.left + latency;
        self.to[to].send((bytes, there)).map_err(|_| Lost::Gone { rank: to })
    }

    fn receive(&mut self, from: usize, length: usize, until: Instant) -> Result<Option<Vec<u8>>, Lost> {
        match self.from[from].recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((bytes, there)) => {
                assert_eq!(bytes.len(), length);
                let mut clock = self.clock.lock().unwrap();
                *clock = clock.max(there);
                Ok(Some(bytes))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Lost::Gone { rank: from }),
        }
    }

    fn flush(&mut self, _: Instant) -> Result<(), usize> {
        Ok(())
    }
}

/// Seconds on the network until the last of `size` ranks has done its part.
fn seconds(network: Network, size: usize, part: impl Fn(&Ranks) + Sync) -> f64 {
    let (mut to, mut from) = (Vec::new(), Vec::new());
    for _ in 0..size {
        to.push(Vec::new());
        from.push(Vec::new());
    }
    for sends in &mut to {
        for hears in &mut from {
            let (sender, receiver) = channel();
            sends.push(sender);
            hears.push(receiver);
        }
    }
    let clocks: Vec<Arc<Mutex<f64>>> = (0..size).map(|_| Arc::default()).collect();
    std::thread::scope(|scope| {
        for (rank, (to, from)) in to.into_iter().zip(from).enumerate() {
            let (clock, left, part) = (clocks[rank].clone(), 0.0, &part);
            let link = Timed {
                rank,
                network,
                clock,
                left,
                to,
                from,
            };
            let ranks = Ranks::over(Box::new(link), Duration::from_secs(60));
            scope.spawn(move || part(&ranks));
        }
    });
    clocks.iter().map(|clock| *clock.lock().unwrap()).fold(0.0, f64::max)
}

const SIZES: [usize; 5] = [2, 3, 4, 16, 64];

/// Slow and far, fast and near, and latency alone.
const NETWORKS: [Network; 3] = [
    Network {
        bandwidth: 1e8,
        latency: 1e-3,
    },
    Network {
        bandwidth: 25e9,
        latency: 5e-6,
    },
    Network {
        bandwidth: 1e15,
        latency: 1e-3,
    },
];

/// Within 2 %: a step's few small messages and one sum of many numbers.
#[test]
fn a_step_takes_what_is_predicted() {
    const NUMBERS: usize = 1_000_000;
    for network in NETWORKS {
        for size in SIZES {
            let found = seconds(network, size, |ranks| {
                (0..3).for_each(|_| assert!(!ranks.any(false).unwrap()));
                ranks.sum(&mut vec![1.0; NUMBERS]).unwrap();
            });
            let predicted = network.seconds(NUMBERS, size);
            assert!(
                (found / predicted - 1.0).abs() < 0.02,
                "{size} ranks, {network:?}: {found} s, {predicted} s predicted"
            );
        }
    }
}

struct Numbers;

impl Scattered for Numbers {
    fn read(&mut self, _: Range<usize>, into: &mut [f32]) {
        into.fill(1.0);
    }

    fn keep(&mut self, _: Range<usize>, _: &[f32]) {}
}

/// Never more, where each keeps just what it has summed or all of it is another's; what the first leaves over is foreseen for the second.
#[test]
fn scattered_sums_take_no_more_than_is_predicted() {
    const NUMBERS: usize = 1_000_000;
    for network in NETWORKS {
        for size in SIZES {
            let even = even_parts(NUMBERS, size);
            let mut own = even.clone();
            own.rotate_left(1);
            for kept in [&own, &even] {
                let found = seconds(network, size, |ranks| {
                    (0..5).for_each(|_| assert!(!ranks.any(false).unwrap()));
                    ranks.scatter(NUMBERS, kept, ROUND, &mut Numbers).unwrap();
                    ranks.share(&mut vec![1.0; NUMBERS], kept).unwrap();
                });
                let predicted = network.scattered_seconds(NUMBERS, size);
                assert!(
                    found <= predicted * 1.02,
                    "{size} ranks, {network:?}: {found} s, {predicted} s predicted"
                );
                let least = predicted - 4.0 * NUMBERS.div_ceil(size) as f64 / network.bandwidth - 3.0 * network.latency;
                assert!(
                    found >= least * 0.98,
                    "{size} ranks, {network:?}: {found} s, at least {least} s"
                );
            }
        }
    }
}
