//! Processes that work on one run together, called ranks as MPI calls them: what they tell each other, and how numbers are added up.
//!
//! ```text
//! Ranks    all_gather, broadcast, any, sum, share, scatter     the same algorithms, whatever the ranks are
//!   |
//! Link     bytes from one rank to another:            threads (one process), mpi (feature `mpi`)
//! ```
//!
//! Every function of [`Ranks`] is called by all ranks in the same order. Sums are taken in a fixed order, so that a run is the same to
//! the bit whenever the same number of ranks takes it, and every rank is given the same bits. Who waits longer than the timeout is told for whom.
//!
//! ```
//! let ranks = ft_ranks::threads(3, std::time::Duration::from_secs(5));
//! let sums = std::thread::scope(|scope| {
//!     let run = |ranks: ft_ranks::Ranks| move || {
//!         let mut numbers = [ranks.rank() as f32, 1.0];
//!         ranks.sum(&mut numbers).map(|()| numbers)
//!     };
//!     let started: Vec<_> = ranks.into_iter().map(|ranks| scope.spawn(run(ranks))).collect();
//!     started.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect::<Vec<_>>()
//! });
//! assert_eq!(sums, [[3.0, 3.0]; 3]);
//! ```

mod link;
mod measure;
#[cfg(feature = "mpi")]
pub mod mpi;
mod ranks;
mod ring;
mod scatter;
#[cfg(test)]
mod tests;
mod threads;
mod tree;

pub use link::{Link, Lost};
pub use measure::{Speed, latencies};
pub use ranks::{Ranks, Waiting};
pub use ring::{even_parts, ring_steps};
pub use scatter::{ROUND, Scattered, scatter_rounds};
pub use threads::threads;
pub use tree::{SMALL, tree_steps};
