//! How much memory a run uses.

use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::Device;

/// Bytes in use now: the device's pool where it has one, else the process's resident set.
pub fn now(device: &Device) -> Option<u64> {
    device
        .memory_pool_usage()
        .map(|usage| usage.bytes_reserved)
        .or_else(resident)
}

/// Resident set of the process now.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// Largest resident set of the process so far.
pub fn peak() -> Option<u64> {
    since_lap().map(|now| now.max(BEFORE_LAP.load(Ordering::Relaxed)))
}

/// What [`peak`] was when it last started anew.
static BEFORE_LAP: AtomicU64 = AtomicU64::new(0);

/// Lets [`since_lap`] start anew; false where the system does not allow it. Whoever asks the system for the peak of this
/// process gets that since the last lap: see `clear_refs` in proc(5).
pub(crate) fn lap() -> bool {
    BEFORE_LAP.fetch_max(since_lap().unwrap_or(0), Ordering::Relaxed);
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Largest resident set of the process since the last [`lap`], or ever.
pub(crate) fn since_lap() -> Option<u64> {
    status("VmHWM:")
}

/// Largest use so far: of the device's pool where it has one (it never shrinks while a run lasts), else of the process.
pub fn highest(device: &Device) -> Option<u64> {
    device
        .memory_pool_usage()
        .map(|usage| usage.bytes_reserved)
        .or_else(peak)
}

/// `measured 1.1 GB, planned 1.0 GB (9.1 % less)`.
pub fn compared(measured: Option<u64>, planned: u64) -> String {
    let planned_text = human(planned);
    let Some(measured) = measured else {
        return format!("planned {planned_text}, not measured on this system");
    };
    let off = 100.0 * (planned as f64 / measured.max(1) as f64 - 1.0);
    let way = if off < 0.0 { "less" } else { "more" };
    format!(
        "measured {}, planned {planned_text} ({:.1} % {way})",
        human(measured),
        off.abs()
    )
}

/// Bytes the machine could still give out.
pub fn available() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

fn status(key: &str) -> Option<u64> {
    field("/proc/self/status", key)
}

/// `key   123 kB` in a file of Linux's proc; none on other systems.
fn field(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// `1.5 GB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let power = (bytes.max(1).ilog2() / 10).min(4) as usize;
    let value = bytes as f64 / 1024f64.powi(power as i32);
    if power == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[power])
    }
}
