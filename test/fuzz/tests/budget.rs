//! Each target for a fixed number of inputs; `ASHLAR_FUZZ_ROUNDS` makes it more.

use ashlar_fuzz::{Budget, Target, fuzz};
use std::time::Duration;

fn clean(target: Target, rounds: u64) {
    let asked = std::env::var("ASHLAR_FUZZ_ROUNDS").ok();
    let rounds = asked.and_then(|text| text.parse().ok()).unwrap_or(rounds);
    let time = Duration::from_secs(600);
    let report = fuzz(target, 1, Budget { rounds, time });
    assert!(report.rounds > 0);
    println!("{target:?}: {report:?}");
}

#[test]
fn nbd_server_survives_any_client() {
    clean(Target::Nbd, 4_000);
}

#[test]
fn frames_and_messages_survive_any_bytes() {
    clean(Target::Proto, 200_000);
}

#[test]
fn disk_images_survive_any_bytes() {
    clean(Target::Qcow2, 300_000);
}

#[test]
fn structures_on_disk_survive_any_bytes() {
    clean(Target::Store, 100_000);
}

#[test]
fn a_run_is_named_by_its_seed() {
    let budget = Budget {
        rounds: 300,
        time: Duration::from_secs(600),
    };
    assert_eq!(fuzz(Target::Nbd, 7, budget), fuzz(Target::Nbd, 7, budget));
}
