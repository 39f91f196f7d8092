//! Fuzzes one target for a while, or runs one input: `cargo run -p ashlar-fuzz -- nbd --seconds 60`.

use anyhow::{Context, Result};
use ashlar_fuzz::{Budget, Target, from_hex, fuzz, run_one};
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Fuzzes one target.
#[derive(Parser)]
struct Arguments {
    /// What to fuzz.
    target: Target,
    /// For how long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The run's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this one input (hexadecimal text) and end.
    #[arg(long)]
    input: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(path) = arguments.input {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let input = from_hex(&text).context("the input is no hexadecimal text")?;
        run_one(arguments.target, &input, arguments.seed);
        println!("no panic");
        return Ok(());
    }
    let budget = Budget {
        rounds: u64::MAX,
        time: Duration::from_secs(arguments.seconds),
    };
    let report = fuzz(arguments.target, arguments.seed, budget);
    println!(
        "{:?}, seed {}: {} inputs, {} behaviours, no panic",
        arguments.target, arguments.seed, report.rounds, report.behaviours
    );
    Ok(())
}
