//! The `ashlar` binary: every role of the cluster and the commands that administer it.

mod access;
mod admin;
mod args;
mod bench;
mod bitmaps;
mod catalog;
mod chap_secret;
mod clients;
mod clones;
mod cluster_command;
mod cluster_source;
mod conductor_role;
mod credentials;
mod csi_role;
mod disk;
mod etcd;
mod exit;
mod exported;
mod gate;
mod host;
mod identity;
mod io_threads;
mod iscsi_role;
mod labels;
mod machine_memory;
mod map_watch;
mod meta;
mod nbd_role;
mod node_identities;
mod output;
mod owner_beats;
mod rebalance;
mod resize;
mod runtime;
mod server_calls;
mod signals;
mod snapshots;
mod space;
mod store_agent;
mod store_role;
mod target_catalog;
mod targets;
mod tasks;
mod transfer;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, DiskCommand, RebalanceCommand, SpaceCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging();
    ashlar_proto::crc::self_test();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

/// Logs go to standard error; `ASHLAR_LOG` sets what is shown, as `info` or `ashlar_store=debug`.
fn start_logging() {
    let filter = EnvFilter::try_from_env("ASHLAR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let (json, who) = (cli.json, cli.identity);
    if !matches!(cli.command, Command::Completions { .. }) {
        credentials::set(&cli.credentials)?;
    }
    if !cli.command.is_role() {
        identity::present(&who)?;
    }
    match cli.command {
        Command::Up(args) => up::run(args, &who),
        Command::Conductor(args) => conductor_role::run(args, &who),
        Command::Store(args) => store_role::run(args, &who),
        Command::Nbd(args) => nbd_role::run(args, &who),
        Command::Iscsi(args) => iscsi_role::run(args, &who),
        Command::Csi(args) => csi_role::run(args, &who),
        Command::Cluster { command } => cluster_command::run(&command, json),
        Command::Volume { api, command } => admin::volume(&api.api, command, json),
        Command::Snapshot { api, command } => snapshots::run(&api.api, command, json),
        Command::Node { api, command } => admin::node(&api.api, &command, json),
        Command::Target { api, command } => targets::run(&api.api, command, json),
        Command::Client { api, command } => clients::run(&api.api, command, json),
        Command::User { api, command } => access::user(&api.api, command, json),
        Command::Key { api, command } => access::key(&api.api, command, json),
        Command::Token { api, command } => access::token(&api.api, command, json),
        Command::Project { api, command } => access::project(&api.api, command, json),
        Command::Audit { api, command } => access::audit(&api.api, &command, json),
        Command::Whoami { api } => access::whoami(&api.api, json),
        Command::Disk { api, command } => match command {
            DiskCommand::List => admin::disk_list(&api.api, json),
            DiskCommand::Schedule(command) => admin::disk(&api.api, &command, json),
            DiskCommand::Format(args) => disk::format(&args, json),
            DiskCommand::Inspect(args) => disk::inspect(&args, json),
        },
        Command::Rebalance {
            api,
            dry_run,
            command,
        } => match command {
            Some(_) if dry_run => {
                let message = "--dry-run stands alone: `ashlar rebalance --dry-run`";
                let kind = clap::error::ErrorKind::ArgumentConflict;
                Cli::command().error(kind, message).exit()
            }
            None if dry_run => rebalance::dry_run(&api.api, json),
            None | Some(RebalanceCommand::Status) => rebalance::status(&api.api, json),
            Some(RebalanceCommand::Pause) => rebalance::pause(&api.api, true, json),
            Some(RebalanceCommand::Resume) => rebalance::pause(&api.api, false, json),
        },
        Command::Task { api, command } => tasks::run(&api.api, &command, json),
        Command::Space { api, command } => {
            let command = command.unwrap_or(SpaceCommand::Show);
            space::run(&api.api, &command, json)
        }
        Command::Events { api, args } => space::events(&api.api, &args, json),
        Command::Meta { api, command } => meta::run(&api.api, command, json),
        Command::Status { api } => admin::status(&api.api, json),
        Command::Bench(args) => bench::run(&args, json),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ashlar", &mut out);
            output::print_text(String::from_utf8_lossy(&out).trim_end())
        }
    }
}
