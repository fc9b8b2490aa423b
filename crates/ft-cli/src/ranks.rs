//! The processes that `mpirun`, `srun` or an MPIJob has started together.

use std::time::Duration;

use ft_train::Ranks;

use crate::failure::Failure;

/// This process among those that were started with it.
pub struct Started {
    #[cfg(feature = "mpi")]
    mpi: Option<ft_ranks::mpi::Mpi>,
}

/// Where launchers tell how many they have started: Open MPI, MPICH and Intel MPI, SLURM with PMIx or PMI.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"];

/// How many processes were started together, as far as a launcher tells.
fn size() -> usize {
    let number = |name: &&str| std::env::var(name).ok()?.parse::<usize>().ok();
    let of_slurm = || {
        // Set for every job; tasks speak MPI only where srun was told how they find each other.
        let speaks = std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("PMI"));
        speaks.then(|| number(&"SLURM_NTASKS")).flatten()
    };
    SIZES.iter().find_map(number).or_else(of_slurm).unwrap_or(1)
}

#[cfg(not(feature = "mpi"))]
impl Started {
    /// One process.
    pub fn find() -> Result<Self, Failure> {
        match size() {
            0 | 1 => Ok(Self {}),
            many => Err(Failure::wrong_use(format!(
                "started as one of {many} processes, but this ft knows nothing of MPI and each would train alone: build it with `--features mpi`"
            ))),
        }
    }

    pub fn ranks(&self) -> Ranks {
        Ranks::alone()
    }

    /// The number of this process among those on its machine; none where it is the only one.
    pub fn local(&self) -> Option<usize> {
        None
    }

    pub fn finish(self) {}

    /// Ends every process where this one has failed.
    pub fn fail(self, failure: Failure) -> Failure {
        failure
    }
}

#[cfg(feature = "mpi")]
impl Started {
    /// Joins the others, where there are some.
    pub fn find() -> Result<Self, Failure> {
        // Until the configuration says how long.
        const START: Duration = Duration::from_secs(600);
        let many = size() > 1;
        let mpi = many.then(|| ft_ranks::mpi::Mpi::start(START)).flatten();
        if let Some(mpi) = &mpi
            && mpi.ranks().is_alone()
        {
            return Err(Failure::new(format!(
                "the launcher has started {} processes, but MPI finds one: ft was built for another MPI library than that of this mpirun or srun",
                size()
            )));
        }
        Ok(Self { mpi })
    }

    pub fn ranks(&self) -> Ranks {
        self.mpi.as_ref().map_or_else(Ranks::alone, ft_ranks::mpi::Mpi::ranks)
    }

    /// The number of this process among those on its machine; none where it is the only one.
    pub fn local(&self) -> Option<usize> {
        self.mpi.as_ref().map(ft_ranks::mpi::Mpi::local)
    }

    /// Waits for the others.
    pub fn finish(self) {
        if let Some(mpi) = self.mpi {
            mpi.finish();
        }
    }

    /// Ends every process where this one has failed.
    pub fn fail(self, failure: Failure) -> Failure {
        let Some(mpi) = self.mpi else { return failure };
        let failure = failure.context(format!(
            "rank {} has failed, and all others end with it",
            mpi.ranks().rank()
        ));
        failure.report();
        mpi.abort(failure.code().into())
    }
}

/// Settings of a run: how long others are waited for, and what is told meanwhile of a stop.
pub fn settle(ranks: &Ranks, timeout: u64, stop: crate::signals::Stop, out: std::path::PathBuf) {
    let timeout = Duration::from_secs(timeout);
    ranks.set_timeout(timeout);
    let mut told = false;
    ranks.set_watch(move |waiting| {
        // A launcher that ends a run because one process has died gives the others little time to say what is left.
        if stop.signal().is_some() && !std::mem::replace(&mut told, true) {
            let newest = ft_train::checkpoint::Checkpoints::of(&out).steps().into_iter().max();
            let last = newest.map_or("none yet".to_owned(), |step| format!("step-{step}"));
            tracing::warn!(
                "rank {}: asked to stop while it waits for rank {}; the newest checkpoint is {last}",
                waiting.rank,
                waiting.on
            );
        }
    });
}
