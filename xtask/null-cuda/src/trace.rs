//! What the program did, as JSON lines in order. Each line is one write to a file opened for appending, so that the program itself
//! may put lines of its own between them (where a step ends). `t` is in microseconds since the driver was loaded.
//!
//! ```text
//! {"t":1,"op":"load","kernel":"fill_f32_0a1b2c3d","ptx":5120}
//! {"t":2,"op":"launch","kernel":"fill_f32_0a1b2c3d","grid":[8,1,1],"block":[256,1,1],"shared":0}
//! {"t":3,"op":"htod","bytes":64}               also dtoh, dtod, memset
//! {"t":4,"op":"alloc","bytes":2097152,"used":2097152,"peak":2097152}        also free, alloc_host, free_host
//! {"t":5,"op":"sync","what":"stream"}          also event, context
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{LazyLock, Mutex};
use std::time::Instant;

static TRACE: LazyLock<Option<(Mutex<File>, Instant)>> = LazyLock::new(|| {
    let path = std::env::var_os("NULL_CUDA_TRACE")?;
    let file = OpenOptions::new().create(true).append(true).open(&path);
    match file {
        Ok(file) => Some((Mutex::new(file), Instant::now())),
        Err(e) => {
            eprintln!("null-cuda: {}: {e}", path.to_string_lossy());
            None
        }
    }
});

/// Appends a line; `rest` is what follows `op`, as JSON.
pub fn record(op: &str, rest: std::fmt::Arguments) {
    if let Some((file, start)) = &*TRACE {
        let line = format!("{{\"t\":{},\"op\":\"{op}\",{rest}}}\n", start.elapsed().as_micros());
        // A trace that cannot be written must not fail the program that is looked at.
        let _ = file.lock().map(|mut file| file.write_all(line.as_bytes()));
    }
}
