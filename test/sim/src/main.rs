//! Deterministic simulation of lanes and clusters.

mod cluster;
mod history;
mod linear;
mod soak;
mod workload;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs the real code in simulated worlds: one seed, one run, the same every time.
#[derive(Parser)]
#[command(name = "ashlar-sim", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Simulates clusters under faults, one for each seed, each twice.
    Run {
        /// How many seeds.
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Virtual seconds of faults in each run.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Runs one seed again and says what happens in it.
    Replay {
        /// The seed.
        seed: u64,
        /// Virtual seconds of faults, as in the run that failed.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Overwrites a nearly full lane at random for hours of virtual time, then fills it.
    Soak(soak::SoakOptions),
    /// Leaves rules of a store out, one after another: each must be noticed.
    Bugs {
        /// Seeds to try for each.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// Virtual seconds of faults in each run.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let good = match Arguments::parse().command {
        Command::Run {
            seeds,
            first,
            seconds,
        } => run(first, seeds, seconds),
        Command::Replay { seed, seconds } => replay(seed, seconds),
        Command::Soak(options) => match soak::soak(options) {
            Ok(()) => true,
            Err(error) => {
                println!("soak FAILED: {error:#}");
                false
            }
        },
        Command::Bugs { seeds, seconds } => bugs(seeds, seconds),
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(first: u64, seeds: u64, seconds: u64) -> bool {
    let (mut passed, mut failed) = (0, 0);
    for seed in first..first + seeds {
        let outcome = cluster::run(seed, seconds, None, false);
        let again = cluster::run(seed, seconds, None, false);
        let failure = outcome.failure.clone().or_else(|| {
            let differs = outcome.hash != again.hash;
            differs.then(|| "two runs of the seed took different steps".to_owned())
        });
        match failure {
            None => passed += 1,
            Some(what) => {
                failed += 1;
                println!("seed {seed} FAILED: {what}");
                println!("  replay: ashlar-sim replay {seed} --seconds {seconds}");
            }
        }
        println!(
            "seed {seed}: {} requests, {} lives, trace {:016x}",
            outcome.requests, outcome.lives, outcome.hash
        );
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

fn replay(seed: u64, seconds: u64) -> bool {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time();
    log.with_ansi(false).init();
    let outcome = cluster::run(seed, seconds, None, true);
    println!("{outcome:#?}");
    outcome.failure.is_none()
}

fn bugs(seeds: u64, seconds: u64) -> bool {
    let mut missed = 0;
    for bug in cluster::StoreBug::ALL {
        let found = (1..=seeds).find_map(|seed| {
            let failure = cluster::run(seed, seconds, Some(bug), false).failure?;
            Some((seed, failure))
        });
        match found {
            Some((seed, what)) => {
                let line = what.lines().next().unwrap_or_default();
                println!("{bug:?}: seed {seed}: {line}");
            }
            None => {
                missed += 1;
                println!("{bug:?}: NOT FOUND in {seeds} seeds");
            }
        }
    }
    println!(
        "{} found, {missed} missed",
        cluster::StoreBug::ALL.len() - missed
    );
    missed == 0
}
