//! The `ashlar` binary: every role of the cluster and the commands that administer it.

mod access;
mod admin;
mod args;
mod bench;
mod bitmaps;
mod block_maps;
mod catalog;
mod chap_secret;
mod clients;
mod clones;
mod cluster_command;
mod cluster_source;
mod conductor_role;
mod config;
mod credentials;
mod csi_role;
mod discovery;
mod disk;
mod etcd;
mod exit;
mod exported;
mod gate;
mod host;
mod identity;
mod io_threads;
mod iscsi_role;
mod kubectl;
mod labels;
mod logging;
mod machine_memory;
mod map_watch;
mod meta;
mod nbd_role;
mod node_identities;
mod output;
mod owner_beats;
mod psk_file;
mod publications;
mod rebalance;
mod resize;
mod runtime;
mod server_calls;
mod settings;
mod signals;
mod snapshots;
mod space;
mod store_agent;
mod store_role;
mod target_catalog;
mod targets;
mod tasks;
mod telemetry;
mod transfer;
mod up;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Cli, Command, DiskCommand, RebalanceCommand, SpaceCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match read_settings() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let process = settings::process(&cli.command);
    logging::start(process.and_then(|process| process.log.as_deref()));
    ashlar_proto::crc::self_test();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

/// The arguments from everywhere; or the exit code, when what is wrong with them was said.
fn read_settings() -> Result<Cli, ExitCode> {
    let argv: Vec<_> = std::env::args_os().collect();
    let parsed = settings::parse(argv.clone(), |name| std::env::var(name).ok());
    let cli = match parsed {
        Ok(cli) => cli,
        Err(settings::Refused::CommandLine(error)) => error.exit(),
        Err(settings::Refused::Settings(faults)) => {
            eprint!("{faults}");
            return Err(exit::wrong_usage());
        }
    };
    if let Err(error) = kubectl::go(&cli, &argv) {
        return Err(exit::report(&error));
    }
    let process = settings::process(&cli.command);
    let only_checks = process.is_some_and(|process| process.check_config);
    let has_file = process.is_some_and(|process| process.config.is_some());
    if only_checks || has_file {
        let faults = settings::check(&cli.command, &cli.identity);
        if !faults.is_empty() {
            eprint!("{}", settings::Faults(faults));
            return Err(exit::wrong_usage());
        }
    }
    if only_checks {
        println!("the settings are right");
        return Err(ExitCode::SUCCESS);
    }
    Ok(cli)
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
            DiskCommand::List { label } => admin::disk_list(&api.api, label.as_deref(), json),
            DiskCommand::Label { disk, labels } => labels::disk(&api.api, disk, &labels, json),
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
        Command::Config { api, command } => config::run(&api.api, &command, json),
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
