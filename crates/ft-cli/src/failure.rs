//! How a verb fails: one clear line, what caused it, and the exit code. Never a backtrace.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

const FAILED: u8 = 1;
const WRONG_USE: u8 = 2;

/// An error on its way to the user. Every `std::error::Error` turns into one through `?`.
#[derive(Debug)]
pub struct Failure {
    lines: Vec<String>,
    /// What else could be done.
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// Something went wrong (exit code 1).
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            lines: vec![message.to_string()],
            hint: None,
            code: FAILED,
        }
    }

    /// The command line asks for something that cannot be (exit code 2).
    pub fn wrong_use(message: impl fmt::Display) -> Self {
        Self {
            lines: vec![message.to_string()],
            hint: None,
            code: WRONG_USE,
        }
    }

    /// The process was asked to stop by this signal (exit code 128 + its number).
    pub fn stopped(signal: usize, message: impl fmt::Display) -> Self {
        Self {
            lines: vec![message.to_string()],
            hint: None,
            code: u8::try_from(128 + signal).unwrap_or(FAILED),
        }
    }

    /// Puts what was being done in front.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.lines.insert(0, doing.to_string());
        self
    }

    /// Adds what could be done instead.
    pub fn hint(mut self, instead: impl fmt::Display) -> Self {
        self.hint = Some(instead.to_string());
        self
    }

    /// The exit code.
    #[cfg(feature = "mpi")]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Writes the error to stderr and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.lines.is_empty() {
            // A closed stderr leaves nobody to tell.
            let _ = io::stderr().write_all(self.render(color()).as_bytes());
        }
        ExitCode::from(self.code)
    }

    fn render(&self, color: bool) -> String {
        let label = if color { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
        let mut lines = self.lines.iter();
        let mut text = format!("{label} {}\n", lines.next().map_or("", String::as_str));
        for cause in lines {
            text.push_str(&format!("  because: {}\n", cause.replace('\n', "\n  ")));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("  instead: {hint}\n"));
        }
        legible(&text)
    }
}

/// The text with values of a megabyte and lists of thousands, which a file may hold, cut short.
fn legible(text: &str) -> String {
    const LINES: usize = 60;
    let mut cut: String = text.split_inclusive('\n').take(LINES).map(short_words).collect();
    let more = text.lines().count().saturating_sub(LINES);
    if more > 0 {
        cut.push_str(&format!("  and {more} more lines\n"));
    }
    cut
}

fn short_words(line: &str) -> String {
    const LONGEST: usize = 300;
    const KEPT: usize = 100;
    let short = |word: &str| {
        let (text, space) = word.split_at(word.trim_end().len());
        match text.len() > LONGEST {
            true => format!(
                "{}[.. {} bytes]{space}",
                &text[..text.floor_char_boundary(KEPT)],
                text.len()
            ),
            false => word.to_owned(),
        }
    };
    line.split_inclusive(char::is_whitespace).map(short).collect()
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        // `ft .. | head` closes our stdout: nothing failed.
        if is_broken_pipe(&error) {
            return Self {
                lines: Vec::new(),
                hint: None,
                code: 0,
            };
        }
        Self {
            lines: chain(&error),
            hint: None,
            code: FAILED,
        }
    }
}

fn is_broken_pipe(error: &dyn Any) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The message and its causes; a cause that the line above already tells is left out.
fn chain(error: &dyn Error) -> Vec<String> {
    let mut lines = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !lines.iter().any(|told| told.contains(&line)) {
            lines.push(line);
        }
        cause = error.source();
    }
    lines
}

/// Adds what was being done to any error.
pub trait Context<T> {
    fn context(self, doing: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|e| e.into().context(doing))
    }
}

/// Whether messages on stderr may be coloured.
pub fn color() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A panic is our bug, not the user's: say so in one line. `RUST_BACKTRACE` brings the usual report back.
pub fn report_panics_in_one_line() {
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or(payload.downcast_ref::<String>().map(String::as_str));
        let place = panic
            .location()
            .map(|l| format!(" ({}:{})", l.file(), l.line()))
            .unwrap_or_default();
        let text = format!("internal error: {}{place}", text.unwrap_or("unknown"));
        let _ = writeln!(
            io::stderr(),
            "{text}\nThis is a bug in ft; RUST_BACKTRACE=1 shows where it happened."
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot read config.json")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn one_line_then_the_causes() {
        let failure = Failure::from(Outer(io::Error::other("disk on fire"))).context("cannot load the model");
        let text = failure.render(false);
        assert_eq!(
            text,
            "error: cannot load the model\n  because: cannot read config.json\n  because: disk on fire\n"
        );
        assert_eq!(failure.code, FAILED);
    }

    #[test]
    fn what_nobody_would_read_is_cut() {
        let long = Failure::new(format!(
            "a: {} is no size\n{}",
            "é".repeat(600_000),
            "  line\n".repeat(1000)
        ));
        let text = long.render(false);
        let value = format!("error: a: {}[.. 1200000 bytes] is no size\n  line\n", "é".repeat(50));
        assert!(
            text.starts_with(&value) && text.ends_with("  line\n  and 942 more lines\n"),
            "{text}"
        );
    }

    #[test]
    fn a_cause_already_told_is_not_repeated() {
        #[derive(Debug)]
        struct Telling(io::Error);
        impl fmt::Display for Telling {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a.json: {}", self.0)
            }
        }
        impl Error for Telling {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        assert_eq!(chain(&Telling(io::Error::other("gone"))), ["a.json: gone"]);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.code, failure.lines.len()), (0, 0));
    }

    #[test]
    fn exit_codes() {
        assert_eq!(Failure::wrong_use("x").code, 2);
        assert_eq!(Failure::stopped(15, "x").code, 143);
        assert_eq!(Failure::stopped(2, "x").code, 130);
    }
}
