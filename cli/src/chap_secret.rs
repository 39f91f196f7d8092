//! Secrets as people give them: in a file, in the environment, on standard input, or asked for.
//!
//! Never as an argument, which every process of the machine can read.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use ashlar_proto::api::Secret;
use ashlar_proto::limits::CHAP_SECRET_BYTES_MAX;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// The variable that may hold the secret.
const VARIABLE: &str = "ASHLAR_CHAP_SECRET";

/// Bytes that are read of a file: more is no secret, and refused as such.
const READ_MAX: u64 = 4 * CHAP_SECRET_BYTES_MAX as u64;

/// The secret from the file, if one is given, else the environment, else standard input.
pub fn read(file: Option<&Path>) -> anyhow::Result<Secret> {
    let stdin = std::io::stdin();
    match file {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(path);
            let file = file.with_context(|| format!("--secret-file {}", path.display()))?;
            first_line(file).with_context(|| format!("--secret-file {}", path.display()))
        }
        None if std::env::var_os(VARIABLE).is_some() => {
            let text = std::env::var(VARIABLE).context(VARIABLE)?;
            first_line(text.as_bytes())
        }
        None if stdin.is_terminal() => ask(),
        _ => first_line(stdin.lock()).context("standard input"),
    }
}

fn first_line(from: impl Read) -> anyhow::Result<Secret> {
    let mut line = String::new();
    std::io::BufReader::new(from.take(READ_MAX)).read_line(&mut line)?;
    let text = line.trim_end_matches(['\r', '\n']);
    ensure!(!text.is_empty(), "there is no secret in the first line");
    Ok(Secret::new(text))
}

/// Asks twice, and does not show what is typed.
fn ask() -> anyhow::Result<Secret> {
    let once = prompt("CHAP secret: ")?;
    let again = prompt("once more: ")?;
    ensure!(once == again, "the two are not the same: try again");
    Ok(once)
}

fn prompt(text: &str) -> anyhow::Result<Secret> {
    let mut out = std::io::stderr().lock();
    write!(out, "{text}")?;
    out.flush()?;
    let quiet = Quiet::begin()?;
    let line = first_line_of_terminal();
    drop(quiet);
    writeln!(out)?;
    line
}

fn first_line_of_terminal() -> anyhow::Result<Secret> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    first_line(line.as_bytes())
}

/// The terminal shows nothing of what is typed while this lives.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("the terminal cannot be silenced")?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let restored = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
        if let Err(error) = restored {
            tracing::warn!(%error, "the terminal stays silent: `stty echo` makes it show input again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_first_line_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for content in [
            "correct horse\n",
            "correct horse",
            "correct horse\r\nmore\n",
        ] {
            std::fs::write(&path, content).unwrap();
            let secret = read(Some(&path)).unwrap();
            assert_eq!(secret.reveal(), "correct horse", "{content:?}");
        }
        for content in ["", "\n", "\nmore"] {
            std::fs::write(&path, content).unwrap();
            assert!(read(Some(&path)).is_err(), "{content:?}");
        }
        let missing = read(Some(&directory.path().join("none"))).unwrap_err();
        assert!(format!("{missing:#}").contains("--secret-file"));
    }
}
