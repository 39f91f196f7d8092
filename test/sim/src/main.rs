//! Deterministic simulation of lanes and clusters.

mod cluster;
mod history;
mod linear;
mod soak;
mod workload;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ashlar_proto::planted::{Planted, plant};
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
    /// Leaves rules of owners and stores out, one after another: each must be noticed.
    Bugs {
        /// Only these, by name.
        only: Vec<String>,
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
        Command::Bugs {
            seeds,
            seconds,
            only,
        } => bugs(seeds, seconds, &only),
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

fn bugs(seeds: u64, seconds: u64, only: &[String]) -> bool {
    let (mut found, mut missed) = (0, 0);
    let mut note = |name: String, first: Option<(u64, String)>| match first {
        Some((seed, what)) => {
            found += 1;
            let line = what.lines().next().unwrap_or_default();
            println!("{name}: seed {seed}: {line}");
        }
        None => {
            missed += 1;
            println!("{name}: NOT FOUND in {seeds} seeds");
        }
    };
    let is_chosen = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    for bug in cluster::StoreBug::ALL {
        let name = format!("Reference{bug:?}");
        if is_chosen(&name) {
            let fails = |seed| cluster::run(seed, seconds, Some(bug), false).failure;
            note(name, first_failure(seeds, fails));
        }
    }
    for bug in Planted::ALL {
        let name = format!("{bug:?}");
        if is_chosen(&name) {
            plant(Some(bug));
            let fails = |seed| cluster::run(seed, seconds, None, false).failure;
            note(name, first_failure(seeds, fails));
            plant(None);
        }
    }
    println!("{found} found, {missed} missed");
    missed == 0
}

/// The first seed that fails. A broken rule may also trip an assertion of the code itself.
fn first_failure(seeds: u64, fails: impl Fn(u64) -> Option<String>) -> Option<(u64, String)> {
    (1..=seeds).find_map(|seed| {
        let outcome = catch_unwind(AssertUnwindSafe(|| fails(seed)));
        let failure = outcome.unwrap_or_else(|_| Some("the code panicked".to_owned()))?;
        Some((seed, failure))
    })
}
