//! burn-train's full-screen view of a run, and what a terminal needs around it.
//!
//! The view puts the terminal in raw mode, where Ctrl-C is a key like any other, and draws over what anybody else writes. So here Ctrl-C becomes a
//! signal again, stderr waits until the view has closed, and a second signal, which ends the process at once, leaves the terminal as it was.

use std::io::{IsTerminal, stderr, stdin, stdout};

use burn::train::Interrupter;
use burn::train::renderer::MetricsRenderer;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;

use crate::logging;

/// What stderr was told in the meantime comes out when this is dropped, after the view.
pub struct Screen;

impl Screen {
    /// Whether there is a terminal to fill.
    pub fn possible() -> bool {
        let terminal = stdin().is_terminal() && stdout().is_terminal() && stderr().is_terminal();
        terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// Opens the view; it closes when the second is dropped.
    pub fn open(interrupter: Interrupter) -> (Self, Box<dyn MetricsRenderer>) {
        logging::hold();
        #[cfg(unix)]
        terminal::remember();
        let view = TuiMetricsRendererWrapper::new(interrupter, None);
        #[cfg(unix)]
        terminal::hear_signals();
        (Self, Box::new(view))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        #[cfg(unix)]
        terminal::forget();
        logging::release();
    }
}

/// Closes the view from a signal handler, just before the process ends; does nothing when none is open.
pub fn abandon() {
    #[cfg(unix)]
    terminal::restore();
}

#[cfg(unix)]
mod terminal {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use rustix::stdio::{stdin, stdout};
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

    static BEFORE: OnceLock<Termios> = OnceLock::new();
    static OPEN: AtomicBool = AtomicBool::new(false);

    /// Off with mouse reports and the alternate screen, on with the cursor (xterm's private modes).
    const CLOSE: &[u8] = b"\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h";

    pub fn remember() {
        if let Ok(mode) = tcgetattr(stdin()) {
            BEFORE.get_or_init(|| mode);
            OPEN.store(true, Ordering::SeqCst);
        }
    }

    /// The view's own thread turns raw mode on soon after it has started; Ctrl-C comes back after that. Ctrl-Z does not: it would leave the shell
    /// with the view's screen.
    pub fn hear_signals() {
        for _ in 0..100 {
            let Ok(mut mode) = tcgetattr(stdin()) else { return };
            if !mode.local_modes.contains(LocalModes::ICANON) {
                mode.local_modes.insert(LocalModes::ISIG);
                mode.special_codes[SpecialCodeIndex::VSUSP] = 0;
                let _ = tcsetattr(stdin(), OptionalActions::Now, &mode);
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn forget() {
        OPEN.store(false, Ordering::SeqCst);
    }

    /// Calls nothing that a signal handler may not (signal-safety(7)): `write` and `tcsetattr`.
    pub fn restore() {
        if OPEN.load(Ordering::SeqCst)
            && let Some(before) = BEFORE.get()
        {
            let _ = rustix::io::write(stdout(), CLOSE);
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}
