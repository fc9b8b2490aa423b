//! The full-screen view, on a pseudo-terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::support::{Bench, ENDLESS, Running};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A run that fills a terminal of its own.
struct Filled {
    run: Running,
    terminal: OwnedFd,
    written: JoinHandle<String>,
}

impl Filled {
    fn start(bench: &Bench, sets: &[&str]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let side = || open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let stdio = |command: &mut Command| {
            command.env("TERM", "xterm").stdin(Stdio::from(side()));
            command.stdout(Stdio::from(side())).stderr(Stdio::from(side()));
        };
        let run = bench.start_on(&[&["train", &bench.config], sets].concat(), stdio);
        let mut reader = File::from(terminal.try_clone().unwrap());
        let written = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // Linux ends the stream of a terminal that nobody has open any more with an error.
            let _ = reader.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { run, terminal, written }
    }

    fn modes(&self) -> LocalModes {
        tcgetattr(&self.terminal).unwrap().local_modes
    }

    /// The exit code, the terminal's modes at the end, and everything that was written to it.
    fn end(self) -> (i32, LocalModes, String) {
        let code = self.run.end().code;
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        drop(self.terminal);
        (code, modes, self.written.join().unwrap())
    }
}

#[test]
fn the_screen_lets_a_signal_through_and_gives_the_terminal_back() {
    let bench = Bench::new();
    let mut filled = Filled::start(&bench, &ENDLESS);
    bench.wait_for_steps(3);
    assert!(!filled.modes().contains(LocalModes::ICANON), "raw, for the view's keys");
    assert!(filled.modes().contains(LocalModes::ISIG), "Ctrl-C is a signal");
    filled.run.signal("INT");
    let (code, modes, text) = filled.end();
    assert_eq!(code, 130, "{text}");
    assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    let (view, after) = text.rsplit_once(LEAVE).expect("the view closes");
    assert!(view.contains(ENTER) && !view.contains("stopped after"));
    assert!(after.contains("stopped after") && after.contains("--resume"), "{after}");
}

#[test]
fn a_second_signal_gives_the_terminal_back_too() {
    let bench = Bench::new();
    let mut filled = Filled::start(&bench, &ENDLESS);
    bench.wait_for_steps(3);
    for signal in ["STOP", "TERM", "INT", "CONT"] {
        filled.run.signal(signal);
    }
    let (code, modes, text) = filled.end();
    assert!([130, 143].contains(&code), "{text}");
    assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    assert!(text.contains(LEAVE), "closed by the handler");
}

#[test]
fn what_is_told_behind_the_screen_comes_out_after_it() {
    let bench = Bench::new();
    Filled::start(&bench, &[]).end();
    let (code, _, text) = Filled::start(&bench, &["--resume", "--set", "train.steps=8"]).end();
    assert_eq!(code, 0, "{text}");
    let (_, after) = text.rsplit_once(LEAVE).expect("the view closes");
    assert!(after.contains("resumed after step 6"), "{after}");
}

#[test]
fn plain_progress_stays_on_the_line() {
    let bench = Bench::new();
    let (code, _, text) = Filled::start(&bench, &["--plain"]).end();
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains(ENTER) && text.contains("step 6/6"), "{text}");
}
