//! `tidemill password USER`: a line for the password file of an `mqtt_listener`.
//!
//! The password comes from the terminal, without being shown, or from stdin; never from the command line, where every other
//! user of the machine could read it.

use std::io::{BufRead, IsTerminal};

use tidemill::{Error, Result};
use tidemill_connectors::mqtt::{PasswordError, password_line};
use tidemill_engine::clock::SystemDice;

use crate::cli::PasswordArgs;
use crate::commands::answer;

/// Prints the line.
pub(crate) fn password(args: &PasswordArgs) -> Result<()> {
    let stdin = std::io::stdin();
    let password = if stdin.is_terminal() {
        let first = ask(&format!("Password for {}: ", args.user))?;
        if ask("Again: ")? != first {
            return Err(Error::Input("the two passwords differ: nothing was printed".to_owned()));
        }
        first
    } else {
        read_line(&mut stdin.lock())?
    };
    let line = password_line(&args.user, password.as_bytes(), &SystemDice).map_err(|error| match error {
        PasswordError::Hash(_) => Error::Environment(error.to_string()),
        error => Error::Input(error.to_string()),
    })?;
    answer(format!("{line}\n").as_bytes())
}

/// Reads a line from the terminal without showing it.
fn ask(prompt: &str) -> Result<String> {
    rpassword::prompt_password(prompt)
        .map_err(|error| Error::Environment(format!("cannot read the password from the terminal: {error}")))
}

fn read_line(input: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    input
        .read_line(&mut line)
        .map_err(|error| Error::Input(format!("cannot read the password from stdin: {error}")))?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_break_is_no_part_of_a_password_and_spaces_are() {
        for (typed, expected) in [("secret\n", "secret"), ("secret\r\n", "secret"), (" a b ", " a b "), ("", "")] {
            assert_eq!(read_line(&mut typed.as_bytes()).expect("text"), expected);
        }
    }
}
