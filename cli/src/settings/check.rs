//! What can be wrong with settings that are well-formed: files that are not there, addresses that are none.
//!
//! Looked at, nothing is opened that a running process has, and nobody is asked over a network.

use std::path::Path;

use ashlar_api_client::{ApiClient, ApiError};

use crate::args::{Command, IdentityArgs, ProcessArgs, TlsArgs};
use crate::nbd_role;

/// What is wrong with the settings of a role; nothing for other commands.
pub fn check(command: &Command, who: &IdentityArgs) -> Vec<String> {
    let mut faults = Vec::new();
    match command {
        Command::Up(args) => {
            tls(&args.tls, &mut faults);
            disks(&args.disk, &mut faults);
        }
        Command::Store(args) => {
            conductor(&args.conductor, who, &mut faults);
            disks(&args.disk, &mut faults);
        }
        Command::Nbd(args) => {
            conductor(&args.conductor, who, &mut faults);
            tls(&args.tls, &mut faults);
        }
        Command::Iscsi(args) => conductor(&args.conductor, who, &mut faults),
        Command::Csi(args) => conductor(&args.conductor, who, &mut faults),
        _ => {}
    }
    if let Some(process) = process(command)
        && let Some(filter) = &process.log
        && let Err(error) = filter.parse::<tracing_subscriber::EnvFilter>()
    {
        faults.push(format!("--log {filter}: {error}"));
    }
    faults
}

/// What a role has of every role.
pub fn process(command: &Command) -> Option<&ProcessArgs> {
    Some(match command {
        Command::Up(args) => &args.process,
        Command::Conductor(args) => &args.process,
        Command::Store(args) => &args.process,
        Command::Nbd(args) => &args.process,
        Command::Iscsi(args) => &args.process,
        Command::Csi(args) => &args.process,
        _ => return None,
    })
}

fn conductor(url: &str, who: &IdentityArgs, faults: &mut Vec<String>) {
    let Err(error) = ApiClient::new(url) else {
        return;
    };
    // Who is to be trusted is read when the process starts; here it is enough that it is said.
    let says_whom = who.identity_dir.is_some() || who.ca.is_some();
    if !(says_whom && matches!(error, ApiError::NoTrust { .. })) {
        faults.push(format!("--conductor {url}: {error}"));
    }
}

fn tls(args: &TlsArgs, faults: &mut Vec<String>) {
    if let Err(error) = nbd_role::tls_mode(args) {
        faults.push(format!("{error:#}"));
    }
}

fn disks(paths: &[impl AsRef<Path>], faults: &mut Vec<String>) {
    for path in paths {
        let path = path.as_ref();
        if let Err(error) = std::fs::metadata(path) {
            faults.push(format!("--disk {}: {error}", path.display()));
        }
    }
}
