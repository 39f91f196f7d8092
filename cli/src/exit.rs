//! Exit codes: what a script can tell from a failed command without reading its text.

use std::process::ExitCode;

use crate::transfer::Interrupted;
use ashlar_api_client::ApiError;

/// Something failed.
const FAILED: u8 = 1;
/// What was named does not exist.
const NOT_FOUND: u8 = 3;
/// Refused as things stand: it exists already, it is in use.
const REFUSED: u8 = 4;
/// The conductor cannot be reached.
const UNREACHABLE: u8 = 5;

/// Not let in, or not permitted.
const NOT_PERMITTED: u8 = 6;

/// What a shell expects of a program ended by SIGINT.
const INTERRUPTED: u8 = 130;

/// The command line, or a settings file, is wrong: what clap ends with.
const WRONG_USAGE: u8 = 2;

/// The exit code of wrong settings.
pub fn wrong_usage() -> ExitCode {
    ExitCode::from(WRONG_USAGE)
}

/// Prints the error, with its causes, and gives the exit code for it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    eprintln!("ashlar: {}", causes.join(": "));
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        return INTERRUPTED;
    }
    let Some(error) = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ApiError>())
    else {
        return FAILED;
    };
    match error.http_status() {
        None if error.is_unreachable() => UNREACHABLE,
        Some(401 | 403 | 429) => NOT_PERMITTED,
        Some(404) => NOT_FOUND,
        Some(409 | 412 | 422 | 507) => REFUSED,
        _ => FAILED,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
