//! What is fuzzed, and the loop that does it.

use crate::corpus::{seeds_of, to_hex};
use crate::mutator::Mutator;
use crate::{iscsi, nbd, proto, qcow2, scsi, store};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Most inputs that a run keeps beside the committed ones.
const KEPT_MAX: usize = 2048;

/// A parser, or what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// The whole NBD server, from the first byte of a client to its last.
    Nbd,
    /// The whole iSCSI server, likewise.
    Iscsi,
    /// SCSI commands with their parameter lists.
    Scsi,
    /// Headers of frames and their messages.
    Proto,
    /// Disk images that are imported.
    Qcow2,
    /// Structures on disk, with checksums that fit.
    Store,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Nbd,
        Self::Iscsi,
        Self::Scsi,
        Self::Proto,
        Self::Qcow2,
        Self::Store,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Nbd => "nbd",
            Self::Iscsi => "iscsi",
            Self::Scsi => "scsi",
            Self::Proto => "proto",
            Self::Qcow2 => "qcow2",
            Self::Store => "store",
        }
    }

    fn seeds(self) -> Vec<Vec<u8>> {
        let mut seeds = seeds_of(self.name());
        seeds.extend(match self {
            Self::Nbd | Self::Qcow2 => Vec::new(),
            Self::Iscsi => iscsi::seeds(),
            Self::Scsi => scsi::seeds(),
            Self::Proto => proto::seeds(),
            Self::Store => store::seeds(),
        });
        seeds.push(Vec::new());
        seeds
    }

    /// Runs one input; the number stands for how the code behaved.
    fn run(self, input: &[u8], seed: u64) -> u64 {
        match self {
            Self::Nbd => nbd::run(input, seed),
            Self::Iscsi => iscsi::run(input, seed),
            Self::Scsi => scsi::run(input),
            Self::Proto => proto::run(input),
            Self::Qcow2 => qcow2::run(input),
            Self::Store => store::run(input),
        }
    }
}

/// How long to fuzz: until either is used up.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Inputs.
    pub rounds: u64,
    /// Wall-clock time.
    pub time: Duration,
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Inputs that were run.
    pub rounds: u64,
    /// Different behaviours that they caused.
    pub behaviours: usize,
}

/// Runs one input.
///
/// # Panics
/// If the target does; the input is printed.
pub fn run_one(target: Target, input: &[u8], seed: u64) -> u64 {
    let run = AssertUnwindSafe(|| target.run(input, seed));
    match catch_unwind(run) {
        Ok(behaviour) => behaviour,
        Err(panic) => {
            let hex = to_hex(input);
            eprintln!("{target:?} panicked, seed {seed}, on the input (hexadecimal):\n{hex}");
            resume_unwind(panic);
        }
    }
}

/// Runs the seeds and then mutated inputs for as long as the budget lasts.
///
/// # Panics
/// If the target does; the input is printed.
pub fn fuzz(target: Target, seed: u64, budget: Budget) -> Report {
    let began = Instant::now();
    let mut mutator = Mutator::new(seed);
    let mut behaviours = HashSet::new();
    let mut corpus = target.seeds();
    let mut rounds = 0;
    for input in &corpus {
        behaviours.insert(run_one(target, input, seed));
        rounds += 1;
    }
    let kept_max = corpus.len() + KEPT_MAX;
    while rounds < budget.rounds && began.elapsed() < budget.time {
        let input = mutator.next(&corpus);
        let is_new = behaviours.insert(run_one(target, &input, mutator.number()));
        if is_new && corpus.len() < kept_max {
            corpus.push(input);
        }
        rounds += 1;
    }
    Report {
        rounds,
        behaviours: behaviours.len(),
    }
}
