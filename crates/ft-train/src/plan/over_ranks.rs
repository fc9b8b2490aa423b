//! What a run comes to that several processes take together.
//!
//! ```text
//! T(n) = T(1) · busiest(n) + 3 · tree(n) · α + 2 (n - 1) · a · α + 2 (n - 1)/n · bytes / bandwidth        efficiency = T(1) / (n · T(n))
//!                                              3 and 3 where train.shard_optimizer sends new values, too
//!                            5               (2 r (n - 1) + r) · a  2 (n - 1)/n + 1/n    where it scatters gradients, in r rounds
//! ```
//!
//! A message of more than 64 KiB is asked for before it goes, a = 3; others go at once, a = 1.
//! The α-β model (Hockney 1994, doi:10.1016/S0167-8191(06)80021-9) of the messages that `ft-ranks` sends: α is what a message takes however short, the
//! bandwidth that of one process in one direction. T(1) is the tokens of a step over the tokens per second of one process.

use ft_peft::PeftConfig;
use ft_ranks::{Ranks, latencies};
use serde::Serialize;

use super::Plan;
use crate::config::AdapterSharing;
use crate::memory::human;
use crate::{Error, Result};

/// What connects the processes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Network {
    /// Bytes per second of one process in one direction.
    pub bandwidth: f64,
    /// Seconds of an empty message.
    pub latency: f64,
}

impl Default for Network {
    /// Ethernet of 10 Gbit/s over TCP.
    fn default() -> Self {
        Self {
            bandwidth: 1.25e9,
            latency: 50e-6,
        }
    }
}

impl Network {
    /// From `25GB/s` and `5us`; what is not given is as `usual`.
    ///
    /// # Errors
    /// Texts that mean nothing.
    pub fn new(bandwidth: Option<&str>, latency: Option<&str>, usual: Self) -> Result<Self> {
        let wrong = |why: String| Error::Plan(vec![why]);
        let bandwidth = bandwidth.map_or(Ok(usual.bandwidth), |text| {
            let bytes = text.strip_suffix("/s").and_then(bytes);
            let wrong = || {
                wrong(format!(
                    "--bandwidth {text}: bytes per second are expected, such as 25GB/s"
                ))
            };
            bytes.ok_or_else(wrong)
        })?;
        let latency = latency.map_or(Ok(usual.latency), |text| {
            seconds(text).ok_or_else(|| wrong(format!("--latency {text}: a time is expected, such as 5us or 0.1ms")))
        })?;
        Ok(Self { bandwidth, latency })
    }

    /// That between ranks that are there.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn between(ranks: &Ranks) -> Result<Self> {
        let measured = ranks.measure()?.map(|speed| Self {
            bandwidth: speed.bandwidth,
            latency: speed.latency,
        });
        Ok(measured.unwrap_or_default())
    }

    /// Seconds of a step's messages among `ranks` processes that sum so many numbers in 32 bits.
    pub fn seconds(&self, numbers: usize, ranks: usize) -> f64 {
        if ranks < 2 {
            return 0.0;
        }
        let each = latencies(part(numbers, ranks));
        let messages = SMALL_MESSAGES * ft_ranks::tree_steps(ranks) + ft_ranks::ring_steps(ranks) * each;
        messages as f64 * self.latency + sent(2, numbers, ranks) as f64 / self.bandwidth
    }

    /// Seconds, at most, of the messages of a step in which each process keeps the sums of its own parameters, and tells their new values.
    pub fn scattered_seconds(&self, numbers: usize, ranks: usize) -> f64 {
        if ranks < 2 {
            return 0.0;
        }
        // Whose gradients are there, and their norm.
        let small = (SMALL_MESSAGES + 2) * ft_ranks::tree_steps(ranks);
        let rounds = ft_ranks::scatter_rounds(numbers, ranks, ft_ranks::ROUND);
        let each = latencies(part(numbers.min(ft_ranks::ROUND), ranks));
        let messages = small + rounds * (ft_ranks::ring_steps(ranks) + 1) * each;
        messages as f64 * self.latency + sent_scattered(numbers, ranks) as f64 / self.bandwidth
    }

    /// Seconds of new values that go around.
    fn share_seconds(&self, numbers: usize, ranks: usize) -> f64 {
        let messages = (ranks - 1) * latencies(part(numbers, ranks));
        messages as f64 * self.latency + sent(1, numbers, ranks) as f64 / self.bandwidth
    }
}

/// Bytes of one of as many equal parts as there are ranks.
fn part(numbers: usize, ranks: usize) -> u64 {
    4 * (numbers / ranks) as u64
}

/// Times in a step that all processes tell each other a few bytes: who was asked to stop, whether memory has run out, losses.
const SMALL_MESSAGES: usize = 3;

/// Bytes that each process sends of numbers that go around the ring so many times.
fn sent(times: usize, numbers: usize, ranks: usize) -> u64 {
    (4 * times as u128 * numbers as u128 * (ranks as u128 - 1) / ranks as u128) as u64
}

/// The same of sums that are scattered, and of new values: parameters are dealt out whole, so that a process may keep up to a whole part that another
/// has summed.
fn sent_scattered(numbers: usize, ranks: usize) -> u64 {
    sent(2, numbers, ranks) + 4 * (numbers as u64).div_ceil(ranks as u64)
}

/// In powers of 1000, as networks are sold.
fn bytes(text: &str) -> Option<f64> {
    of_units(text, &[("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("B", 1.0)]).filter(|bytes| *bytes > 0.0)
}

fn seconds(text: &str) -> Option<f64> {
    of_units(text, &[("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)])
}

fn of_units(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * unit)
}

/// A run over so many processes.
#[derive(Clone, Debug, Serialize)]
pub struct RankPlan {
    /// Processes.
    pub ranks: usize,
    /// Bytes that each takes.
    pub memory_bytes: u64,
    /// Bytes that each sends in a step.
    pub sent_bytes: u64,
    /// Seconds of a step that they wait for messages.
    pub message_seconds: f64,
    /// What the busiest computes of a step; 1 / `ranks` is best.
    pub busiest: f64,
    /// Tokens per second of all over as many times those of one; none where the rate of one is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<f64>,
}

/// What is asked of a plan over processes.
#[derive(Clone, Copy, Debug)]
pub struct Over {
    /// The most of them.
    pub ranks: usize,
    /// What connects them.
    pub network: Network,
    /// Tokens per second of one, where that is known.
    pub rate: Option<f64>,
}

/// The most processes that a plan is made for.
pub const MOST_RANKS: usize = 1024;

impl Plan {
    /// The plan for 1, 2, 4, .. up to so many processes.
    ///
    /// # Errors
    /// None, or more than [`MOST_RANKS`].
    pub fn over_ranks(&self, Over { ranks, network, rate }: Over) -> Result<Vec<RankPlan>> {
        if ranks == 0 || ranks > MOST_RANKS {
            return Err(Error::Plan(vec![format!(
                "--ranks {ranks}: 1 to {MOST_RANKS} processes can be planned for"
            )]));
        }
        let mut sizes: Vec<usize> = (0..).map(|power| 1 << power).take_while(|size| *size < ranks).collect();
        sizes.push(ranks);
        Ok(sizes
            .into_iter()
            .map(|size| self.of_ranks(size, network, rate))
            .collect())
    }

    fn of_ranks(&self, ranks: usize, network: Network, rate: Option<f64>) -> RankPlan {
        let (numbers, shards) = (self.trainable(), self.config.train.shard_optimizer && ranks > 1);
        let scatters = shards && self.scatters();
        let busiest = self.batches.busiest(ranks);
        let (sent_bytes, message_seconds) = match (shards, scatters) {
            (_, true) => (
                sent_scattered(numbers, ranks),
                network.scattered_seconds(numbers, ranks),
            ),
            // New values go once around, half of what a sum takes.
            (true, false) => (
                sent(3, numbers, ranks),
                network.seconds(numbers, ranks) + network.share_seconds(numbers, ranks),
            ),
            (false, false) => (sent(2, numbers, ranks), network.seconds(numbers, ranks)),
        };
        let optimizer = self.bytes.optimizer;
        let spared = if shards {
            optimizer - optimizer.div_ceil(ranks as u64)
        } else {
            0
        };
        let alone = rate
            .filter(|rate| *rate > 0.0)
            .map(|rate| self.batches.step_tokens() / rate);
        let efficiency = |alone: f64| alone / (ranks as f64 * (alone * busiest + message_seconds));
        RankPlan {
            ranks,
            memory_bytes: self.bytes.total().max(self.summing(ranks, scatters)) - spared,
            sent_bytes,
            message_seconds,
            busiest,
            efficiency: alone.map(efficiency),
        }
    }

    /// Whether each of several processes keeps the gradients of its own parameters alone, once they are summed: nothing else in a step asks for all.
    pub(crate) fn scatters(&self) -> bool {
        self.config.train.shard_optimizer
            && matches!(self.peft, PeftConfig::Full(_))
            && self.config.continual.is_none()
            && self.config.mixture.adapter != AdapterSharing::PerTask
    }

    /// Bytes while gradients are summed, which are let go as they are read; what passes through the blocks is gone then. On a card, sums take host
    /// memory.
    fn summing(&self, ranks: usize, scatters: bool) -> u64 {
        if ranks == 1 || !self.cpu {
            return 0;
        }
        let (bytes, numbers) = (&self.bytes, self.trainable() as u64);
        let held = bytes.weights + bytes.adapters + bytes.optimizer + bytes.continual + bytes.other_model;
        // A part that came, one that is to go, and one that is going.
        let on_the_way = |numbers: u64| 12 * numbers.div_ceil(ranks as u64);
        let of_sum = match scatters {
            true => {
                let round = numbers.min(ft_ranks::ROUND as u64);
                4 * numbers.div_ceil(ranks as u64) + 4 * round + on_the_way(round)
            }
            false => on_the_way(numbers),
        };
        held + bytes.runtime + 4 * numbers + of_sum
    }
}

/// A table for people.
pub fn table(plans: &[RankPlan], network: Network) -> String {
    let Network { bandwidth, latency } = network;
    let mut text = format!("network    {:.2} GB/s, {:.1} us\n", bandwidth / 1e9, latency * 1e6);
    text += "ranks      memory each   sent a step    messages   busiest   efficiency\n";
    for plan in plans {
        let efficiency = plan
            .efficiency
            .map_or("-".to_owned(), |e| format!("{:.1} %", 100.0 * e));
        text += &format!(
            "{:>5}      {:>11}   {:>11}   {:>7.2} ms   {:>5.1} %   {efficiency:>10}\n",
            plan.ranks,
            human(plan.memory_bytes),
            human(plan.sent_bytes),
            1e3 * plan.message_seconds,
            100.0 * plan.busiest,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_what_means_nothing_is_refused() {
        let network = Network::new(Some("25GB/s"), Some("5us"), Network::default()).unwrap();
        assert!((network.latency - 5e-6).abs() < 1e-15);
        assert_eq!(network.bandwidth, 25e9);
        assert_eq!(
            Network::new(None, None, Network::default()).unwrap(),
            Network::default()
        );
        for (bandwidth, latency) in [
            ("25GB", "5us"),
            ("0GB/s", "5us"),
            ("x/s", "5us"),
            ("1GB/s", "5"),
            ("1GB/s", "-1us"),
            ("1GB/s", "NaNs"),
        ] {
            assert!(
                Network::new(Some(bandwidth), Some(latency), Network::default()).is_err(),
                "{bandwidth} {latency}"
            );
        }
    }

    #[test]
    fn messages_take_what_the_formula_says() {
        let network = Network {
            bandwidth: 1e9,
            latency: 1e-3,
        };
        assert_eq!(network.seconds(1_000_000, 1), 0.0);
        // Two ranks: 3 · 2 small messages and 2 of the ring that are asked for; 4 MB go out.
        assert!((network.seconds(1_000_000, 2) - (12e-3 + 4e-3)).abs() < 1e-12);
        // Four: 3 · 4 and 6 · 3; 6 MB.
        assert!((network.seconds(1_000_000, 4) - (30e-3 + 6e-3)).abs() < 1e-12);
        // Few numbers go at once.
        assert!((network.seconds(1000, 2) - (8e-3 + 4e-6)).abs() < 1e-12);
        // Scattered: 5 · 2, and in one round 2 · 3 of the ring and 3 more; 4 MB and at most 2.
        assert!((network.scattered_seconds(1_000_000, 2) - (19e-3 + 6e-3)).abs() < 1e-12);
    }
}
