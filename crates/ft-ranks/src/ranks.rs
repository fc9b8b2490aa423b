//! What ranks do together.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Link, Lost, Scattered, ring, scatter, tree};

/// A rank that is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who waits.
    pub rank: usize,
    /// For whom.
    pub on: usize,
    /// For how long so far.
    pub since: Duration,
}

/// One of the processes that take a run together; alone, it does nothing and costs nothing.
#[derive(Clone, Default)]
pub struct Ranks(Option<Arc<Group>>);

struct Group {
    rank: usize,
    size: usize,
    open: Mutex<Open>,
}

struct Open {
    link: Box<dyn Link>,
    timeout: Duration,
    /// Told now and then while somebody is waited for.
    watch: Box<dyn FnMut(Waiting) + Send>,
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Ranks {
    /// The only process of a run.
    pub fn alone() -> Self {
        Self::default()
    }

    /// A rank with these connections, which waits for another as long as `timeout`.
    pub fn over(link: Box<dyn Link>, timeout: Duration) -> Self {
        let (rank, size) = (link.rank(), link.size());
        let open = Open {
            link,
            timeout,
            watch: Box::new(|_| {}),
        };
        let group = Group {
            rank,
            size,
            open: Mutex::new(open),
        };
        Self((size > 1).then(|| Arc::new(group)))
    }

    /// This rank's number, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |group| group.rank)
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |group| group.size)
    }

    /// Whether there is no other.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this is the one that writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Waits for others as long as this from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        if let Some(group) = &self.0 {
            group.open().timeout = timeout;
        }
    }

    /// Tells `watch` every tenth of a second while this rank waits for another.
    pub fn set_watch(&self, watch: impl FnMut(Waiting) + Send + 'static) {
        if let Some(group) = &self.0 {
            group.open().watch = Box::new(watch);
        }
    }

    /// The bytes of all ranks, in their order.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.with(|open| tree::all_gather(open, own), || vec![own.to_vec()])
    }

    /// The bytes of all ranks, in their order, at the first of them; nothing at the others.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn gather(&self, own: &[u8]) -> Result<Option<Vec<Vec<u8>>>, Lost> {
        self.with(|open| tree::gather(open, own), || Some(vec![own.to_vec()]))
    }

    /// The bytes of rank 0.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>, Lost> {
        match self.is_alone() {
            true => Ok(own),
            false => self.with(|open| tree::broadcast(open, own), Vec::new),
        }
    }

    /// Whether it is true for any rank.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn any(&self, own: bool) -> Result<bool, Lost> {
        Ok(self.all_gather(&[own.into()])?.iter().any(|of| of == &[1]))
    }

    /// Puts the sum over all ranks in the place of every number: in the order of the ranks, beginning with rank k in the k-th of as many
    /// equal parts of `numbers` as there are ranks; a small list begins with rank 0 everywhere.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn sum(&self, numbers: &mut [f32]) -> Result<(), Lost> {
        let small = size_of_val(numbers) <= tree::SMALL;
        self.with(
            |open| match small {
                true => tree::sum(open, numbers),
                false => ring::sum(open, numbers),
            },
            || (),
        )
    }

    /// Sums `count` numbers that lie scattered, and lets rank r keep those in `kept[r]`, about `round` of them at a time: to the bit what
    /// [`sum`](Self::sum) makes of them.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn scatter(
        &self,
        count: usize,
        kept: &[Range<usize>],
        round: usize,
        numbers: &mut dyn Scattered,
    ) -> Result<(), Lost> {
        if !self.is_alone() {
            return self.with(|peers| scatter::sum(peers, count, kept, round, numbers), || ());
        }
        let mut all = vec![0.0; count];
        numbers.read(0..count, &mut all);
        let own = kept[0].clone();
        numbers.keep(own.clone(), &all[own]);
        Ok(())
    }

    /// Gives every rank all of `numbers`, of which each has its own part: that of rank k is `parts[k]`.
    ///
    /// # Errors
    /// A rank that ends or says nothing.
    pub fn share(&self, numbers: &mut [f32], parts: &[Range<usize>]) -> Result<(), Lost> {
        self.with(|open| ring::share(open, numbers, parts), || ())
    }

    fn with<T>(&self, many: impl FnOnce(&mut Peers) -> Result<T, Lost>, alone: impl FnOnce() -> T) -> Result<T, Lost> {
        let Some(group) = &self.0 else { return Ok(alone()) };
        let mut open = group.open();
        let mut peers = Peers {
            rank: group.rank,
            size: group.size,
            open: &mut open,
        };
        let done = many(&mut peers)?;
        peers.flush()?;
        Ok(done)
    }
}

impl Group {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The others, to the algorithms.
pub(crate) struct Peers<'a> {
    pub rank: usize,
    pub size: usize,
    open: &'a mut Open,
}

/// Between two looks at who is waited for.
const LOOK: Duration = Duration::from_millis(100);

impl Peers<'_> {
    pub fn send(&mut self, to: usize, bytes: Vec<u8>) -> Result<(), Lost> {
        self.open.link.send(to, bytes)
    }

    pub fn receive(&mut self, from: usize, length: usize) -> Result<Vec<u8>, Lost> {
        let start = Instant::now();
        loop {
            if let Some(bytes) = self.open.link.receive(from, length, Instant::now() + LOOK)? {
                return Ok(bytes);
            }
            self.still_waiting(from, start)?;
        }
    }

    /// Bytes whose number is sent before them.
    pub fn send_sized(&mut self, to: usize, bytes: Vec<u8>) -> Result<(), Lost> {
        self.send(to, (bytes.len() as u64).to_le_bytes().to_vec())?;
        self.send(to, bytes)
    }

    pub fn receive_sized(&mut self, from: usize) -> Result<Vec<u8>, Lost> {
        let length = self.receive(from, size_of::<u64>())?;
        let length = length.try_into().map_or(0, u64::from_le_bytes);
        self.receive(from, length as usize)
    }

    fn flush(&mut self) -> Result<(), Lost> {
        let start = Instant::now();
        while let Err(to) = self.open.link.flush(Instant::now() + LOOK) {
            self.still_waiting(to, start)?;
        }
        Ok(())
    }

    fn still_waiting(&mut self, on: usize, start: Instant) -> Result<(), Lost> {
        let since = start.elapsed();
        if since >= self.open.timeout {
            return Err(Lost::Silent { rank: on, after: since });
        }
        (self.open.watch)(Waiting {
            rank: self.rank,
            on,
            since,
        });
        Ok(())
    }
}
