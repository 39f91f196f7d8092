//! The host's own tools: run with a limit, their complaints kept.

use std::ffi::OsStr;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tonic::Status;

/// How long a tool may take: mkfs and fsck of a large volume take minutes.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs a tool; what its exit code means is the caller's to say. It dies with the call.
///
/// # Errors
/// INTERNAL where it cannot be run, DEADLINE_EXCEEDED where it does not end.
pub(crate) async fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<Output, Status> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(LIMIT, child).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(Status::internal(format!(
            "`{program}` cannot be run: {error}"
        ))),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "`{program}` did not end within {} s",
            LIMIT.as_secs()
        ))),
    }
}

/// Runs a tool that must succeed, and gives what it printed.
///
/// # Errors
/// As [`run`]; INTERNAL with what it complained of where it fails.
pub(crate) async fn check<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String, Status> {
    let output = run(program, arguments).await?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(program, &output))
    }
}

/// A tool has failed.
pub(crate) fn failed(program: &str, output: &Output) -> Status {
    let complaint = String::from_utf8_lossy(&output.stderr);
    Status::internal(format!(
        "`{program}` failed ({}): {}",
        output.status,
        complaint.trim()
    ))
}
