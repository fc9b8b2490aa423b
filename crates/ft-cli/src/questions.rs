//! Questions to a person at a terminal.

use std::io::{BufRead, IsTerminal, Write};

use crate::failure::Failure;

/// Whether somebody is there to answer.
pub fn somebody() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks until `read` takes the answer; what it says against one is shown. An empty answer is `read` as it is.
pub fn ask<T>(
    input: &mut impl BufRead,
    output: &mut impl Write,
    question: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Failure> {
    loop {
        write!(output, "{question}: ")?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(Failure::wrong_use(format!("{question}: no answer")));
        }
        match read(line.trim()) {
            Ok(answer) => return Ok(answer),
            Err(why) => writeln!(output, "{why}")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_cannot_be_is_asked_for_again() {
        let mut shown = Vec::new();
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("`{text}` is no number"));
        let answer = ask(&mut "x\n7\n".as_bytes(), &mut shown, "How many", number);
        assert_eq!(answer.ok(), Some(7));
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            "How many: `x` is no number\nHow many: "
        );
        assert!(ask(&mut "".as_bytes(), &mut Vec::new(), "How many", number).is_err());
    }
}
