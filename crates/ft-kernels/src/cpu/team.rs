//! Short work on threads that wait for it awake.
//!
//! ```text
//!  leader   open ─ tasks ─ close ─ serial code ─ open ─ ..
//!  helpers       ─ tasks ───── spin ───────────────── tasks ─ ..      asleep after AWAKE without work
//! ```
//! A step of decoding is hundreds of products of some ten microseconds each, with little between them; waking a sleeping thread takes
//! as long as such a product. Helpers that sleep are woken, but not waited for: the leader claims tasks like everybody else.
use super::par;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a helper looks for work before it sleeps.
const AWAKE: Duration = Duration::from_micros(100);

/// Runs `task(0..tasks)`, each exactly once, on all threads. The order is unspecified.
///
/// One caller at a time has the helpers; others, and callers inside of the rayon pool, run on that.
pub(crate) fn run(tasks: usize, task: impl Fn(usize) + Sync) {
    if tasks <= 1 || par::threads() <= 1 {
        return (0..tasks).for_each(task);
    }
    let inside_pool = rayon::current_thread_index().is_some();
    match (!inside_pool).then(|| Team::get().lead()).flatten() {
        Some(lead) => lead.run(tasks, &task),
        None => par::run(tasks, task),
    }
}

/// What is done at the moment: a borrow of the leader's closure.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

#[derive(Default)]
struct Team {
    leader: Mutex<()>,
    /// The number of the job that is open, or 0.
    open: AtomicU64,
    /// The last number given.
    jobs: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// The next task.
    next: AtomicUsize,
    /// Helpers that may look at the job.
    inside: AtomicUsize,
    panicked: AtomicBool,
    sleeping: AtomicUsize,
    asleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written by the leader while nobody is inside, and read by helpers that are.
unsafe impl Sync for Team {}
// SAFETY: the pointer in `job` is only followed while the closure is borrowed.
unsafe impl Send for Team {}

impl Team {
    /// The team of this process; its threads start with the first call.
    fn get() -> &'static Self {
        static TEAM: OnceLock<&'static Team> = OnceLock::new();
        TEAM.get_or_init(|| {
            let team: &'static Team = Box::leak(Box::default());
            for _ in 1..par::threads() {
                // Where the system has no thread left, there are fewer helpers.
                let _ = std::thread::Builder::new().name("ft-team".into()).spawn(|| team.help());
            }
            team
        })
    }

    /// The helpers, if nobody has them.
    fn lead(&'static self) -> Option<Lead> {
        let guard = match self.leader.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Lead {
            team: self,
            _guard: guard,
        })
    }

    fn help(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            self.inside.fetch_add(1, SeqCst);
            // The leader closes before it looks who is inside: what is open now stays until this thread has left.
            if self.open.load(SeqCst) == seen && catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
                self.panicked.store(true, Relaxed);
            }
            self.inside.fetch_sub(1, SeqCst);
        }
    }

    /// The number of a job that is open and not the one seen last.
    fn wait(&self, seen: u64) -> u64 {
        let fresh = || Some(self.open.load(SeqCst)).filter(|open| *open != 0 && *open != seen);
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if let Some(open) = fresh() {
                    return open;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > AWAKE {
                break;
            }
        }
        let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, SeqCst);
        loop {
            if let Some(open) = fresh() {
                self.sleeping.fetch_sub(1, SeqCst);
                return open;
            }
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes tasks until none is left. Only for the leader and for helpers that are inside.
    fn work(&self) {
        // SAFETY: the job is open: the leader does not write it, and its closure lives.
        let (task, tasks) = unsafe {
            let job = (*self.job.get()).expect("a job that is open");
            (&*job.task, job.tasks)
        };
        loop {
            let index = self.next.fetch_add(1, Relaxed);
            if index >= tasks {
                return;
            }
            task(index);
        }
    }
}

/// The right to give the helpers work.
struct Lead {
    team: &'static Team,
    _guard: MutexGuard<'static, ()>,
}

impl Lead {
    fn run(self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let team = self.team;
        // SAFETY: only the lifetime changes; nobody follows the pointer once `Close` is dropped.
        let task = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(task)
        };
        // SAFETY: nothing is open and nobody is inside: the leader before waited for that.
        unsafe { *team.job.get() = Some(Job { task, tasks }) };
        team.next.store(0, Relaxed);
        team.panicked.store(false, Relaxed);
        let number = team.jobs.fetch_add(1, Relaxed) + 1;
        team.open.store(number, SeqCst);
        let close = Close(team);
        self.wake(tasks - 1);
        team.work();
        drop(close);
        if team.panicked.load(Relaxed) {
            panic!("a part of an operation panicked on another thread");
        }
    }

    fn wake(&self, helpers: usize) {
        let sleeping = self.team.sleeping.load(SeqCst).min(helpers);
        if sleeping > 0 {
            // Who is about to sleep holds this, and looks once more before.
            drop(self.team.asleep.lock().unwrap_or_else(PoisonError::into_inner));
            (0..sleeping).for_each(|_| self.team.wake.notify_one());
        }
    }
}

/// Ends a job when it is dropped, also by a panic: returns once no helper is inside.
struct Close(&'static Team);

impl Drop for Close {
    fn drop(&mut self) {
        self.0.open.store(0, SeqCst);
        let mut spins = 0;
        while self.0.inside.load(SeqCst) > 0 {
            spins += 1;
            match spins < 1000 {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for round in 0..2000 {
            let tasks = round % 37;
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            run(tasks, |i| {
                counts[i].fetch_add(1, SeqCst);
            });
            assert!(counts.iter().all(|count| count.load(SeqCst) == 1), "{round}");
            if round % 500 == 0 {
                // Long enough for the helpers to fall asleep.
                std::thread::sleep(2 * AWAKE);
            }
        }
    }

    #[test]
    fn callers_at_the_same_time_do_not_meet() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let sum = AtomicUsize::new(0);
                        run(20, |i| {
                            sum.fetch_add(i, SeqCst);
                            // A task may ask for more.
                            run(2, |_| {});
                        });
                        assert_eq!(sum.load(SeqCst), 190);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_comes_back_and_nothing_is_left_open() {
        for _ in 0..50 {
            let broken = catch_unwind(|| run(16, |i| assert!(i != 7, "seven")));
            assert!(broken.is_err());
            let sum = AtomicUsize::new(0);
            run(16, |i| {
                sum.fetch_add(i, SeqCst);
            });
            assert_eq!(sum.load(SeqCst), 120);
        }
    }
}
