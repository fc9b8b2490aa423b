//! The program as its users meet it: arguments in; stdout, stderr and exit code out. The model is `embedded:tiny`.

mod adapterhub;
mod advise;
mod answers;
#[cfg(feature = "hub")]
mod authors;
mod continual;
mod data;
#[cfg(unix)]
mod devices;
#[cfg(unix)]
mod disk;
mod export;
mod front;
mod gguf;
mod heads;
#[cfg(feature = "hub")]
mod hub;
#[cfg(all(feature = "mpi", target_os = "linux"))]
mod mpi;
mod preview;
mod runs;
#[cfg(unix)]
mod screen;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod serve_embeddings;
#[cfg(unix)]
mod serve_faults;
#[cfg(unix)]
mod serve_page;
#[cfg(unix)]
mod serve_runs;
mod serve_structure;
#[cfg(unix)]
mod serve_support;
mod support;
#[cfg(unix)]
mod webdriver;
mod weights;
