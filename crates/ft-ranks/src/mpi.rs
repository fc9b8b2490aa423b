//! Ranks that are processes, over MPI: what `mpirun`, `srun` or an MPIJob has started.
//!
//! MPI's own collectives wait for ever for a rank that hangs, and leave the order of a sum to the library. Here MPI carries messages alone.
//! Requests are raw because a wait that is given up, which no safe one can be, leaves its buffer to MPI.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::{Link, Lost, Ranks};

/// MPI from its start to its end.
pub struct Mpi {
    ranks: Ranks,
    local: usize,
    universe: Universe,
}

impl Mpi {
    /// Joins the processes that were started together; none where MPI was started before in this process.
    pub fn start(timeout: Duration) -> Option<Self> {
        // Whichever thread trains speaks to MPI, one at a time.
        let (universe, _) = mpi::initialize_with_threading(Threading::Serialized)?;
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        let local = world.split_shared(world.rank()).rank() as usize;
        let link = World {
            rank,
            size,
            sending: VecDeque::new(),
            receiving: None,
        };
        Some(Self {
            ranks: Ranks::over(Box::new(link), timeout),
            local,
            universe,
        })
    }

    /// This process among them.
    pub fn ranks(&self) -> Ranks {
        self.ranks.clone()
    }

    /// Its number among those on the same machine.
    pub fn local(&self) -> usize {
        self.local
    }

    /// Waits for all others, and ends MPI.
    pub fn finish(self) {
        self.universe.world().barrier();
    }

    /// Ends all processes.
    pub fn abort(self, code: i32) -> ! {
        self.universe.world().abort(code)
    }
}

/// Messages between all processes.
struct World {
    rank: usize,
    size: usize,
    sending: VecDeque<Request>,
    receiving: Option<Request>,
}

/// A message on its way.
struct Request {
    raw: ffi::MPI_Request,
    /// MPI's until the request is done.
    bytes: Vec<u8>,
    /// The other rank.
    peer: usize,
}

// SAFETY: MPI was started for calls from any thread, one at a time, and a `Link` is used by one thread at a time.
unsafe impl Send for Request {}

const TAG: i32 = 7;

/// MPI counts in 32 bits.
const MOST: usize = 1 << 30;

/// How long a rank looks for a message without pause; what comes later is waited for with pauses, which leave the core to others.
const SPIN: Duration = Duration::from_micros(200);

impl Request {
    fn send(bytes: Vec<u8>, to: usize) -> Self {
        let mut request = Self::new(bytes, to);
        // SAFETY: the vector's heap memory neither moves nor goes before the request is done (see `drop`).
        unsafe {
            ffi::MPI_Isend(
                request.bytes.as_ptr().cast(),
                request.bytes.len() as i32,
                ffi::RSMPI_UINT8_T,
                to as i32,
                TAG,
                ffi::RSMPI_COMM_WORLD,
                &mut request.raw,
            );
        }
        request
    }

    fn receive(length: usize, from: usize) -> Self {
        let mut request = Self::new(vec![0; length], from);
        // SAFETY: as above; MPI writes no more than the vector holds.
        unsafe {
            ffi::MPI_Irecv(
                request.bytes.as_mut_ptr().cast(),
                length as i32,
                ffi::RSMPI_UINT8_T,
                from as i32,
                TAG,
                ffi::RSMPI_COMM_WORLD,
                &mut request.raw,
            );
        }
        request
    }

    fn new(bytes: Vec<u8>, peer: usize) -> Self {
        // SAFETY: a constant of the library.
        let raw = unsafe { ffi::RSMPI_REQUEST_NULL };
        Self { raw, bytes, peer }
    }

    /// The bytes that came or went, once it is done.
    fn test(&mut self) -> Option<usize> {
        let (mut done, mut status, mut count) = (0, MaybeUninit::uninit(), 0);
        // SAFETY: the request is live or null; where it is done, the status is written.
        unsafe {
            ffi::MPI_Test(&mut self.raw, &mut done, status.as_mut_ptr());
            if done == 0 {
                return None;
            }
            ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &mut count);
        }
        Some(count as usize)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: a constant of the library.
        if self.raw != unsafe { ffi::RSMPI_REQUEST_NULL } {
            // MPI may still write into it.
            std::mem::forget(std::mem::take(&mut self.bytes));
        }
    }
}

impl World {
    /// Lets messages go whose turn it is.
    fn drive(&mut self) {
        while let Some(first) = self.sending.front_mut() {
            match first.test() {
                Some(_) => self.sending.pop_front(),
                None => break,
            };
        }
    }
}

/// Asks again and again until it is there or `until` has come.
fn wait<T>(until: Instant, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(there) = ask() {
            return Some(there);
        }
        let waited = start.elapsed();
        if Instant::now() >= until {
            return None;
        }
        match waited < SPIN {
            true => std::hint::spin_loop(),
            false => std::thread::sleep((waited / 8).min(Duration::from_millis(1))),
        }
    }
}

impl Link for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&mut self, to: usize, bytes: Vec<u8>) -> Result<(), Lost> {
        if bytes.len() <= MOST {
            self.sending.push_back(Request::send(bytes, to));
        } else {
            let pieces = bytes.chunks(MOST).map(|piece| Request::send(piece.to_vec(), to));
            self.sending.extend(pieces);
        }
        Ok(())
    }

    fn receive(&mut self, from: usize, length: usize, until: Instant) -> Result<Option<Vec<u8>>, Lost> {
        if length > MOST {
            let mut all = Vec::with_capacity(length);
            while all.len() < length {
                let piece = MOST.min(length - all.len());
                // Half of a message cannot be asked for again; what is left of it is waited for as long as it takes.
                while let None = self.piece(from, piece, until)?.map(|piece| all.extend(piece)) {
                    if all.is_empty() {
                        return Ok(None);
                    }
                }
            }
            return Ok(Some(all));
        }
        self.piece(from, length, until)
    }

    fn flush(&mut self, until: Instant) -> Result<(), usize> {
        let done = wait(until, || {
            self.drive();
            self.sending.is_empty().then_some(())
        });
        done.ok_or_else(|| self.sending.front().map_or(0, |request| request.peer))
    }
}

impl World {
    fn piece(&mut self, from: usize, length: usize, until: Instant) -> Result<Option<Vec<u8>>, Lost> {
        let mut request = match self.receiving.take() {
            Some(request) => request,
            None => Request::receive(length, from),
        };
        let came = wait(until, || {
            self.drive();
            request.test()
        });
        let Some(found) = came else {
            self.receiving = Some(request);
            return Ok(None);
        };
        match found == length {
            true => Ok(Some(std::mem::take(&mut request.bytes))),
            false => Err(Lost::OutOfStep {
                rank: from,
                found,
                expected: length,
            }),
        }
    }
}
