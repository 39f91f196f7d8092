//! Thresholds, the window, and what begins a new incident.

use super::*;

/// A watch with a clock and a counter of incidents.
struct Bench {
    watch: AilingWatch,
    now: Instant,
    counts: Evidence,
    incidents: u32,
}

impl Bench {
    fn new() -> Self {
        Self {
            watch: AilingWatch::new(Instant::EPOCH),
            now: Instant::EPOCH,
            counts: Evidence::default(),
            incidents: 0,
        }
    }

    /// A report after some time.
    fn after(&mut self, seconds: u64) -> Option<Ailing> {
        self.now += Duration::from_secs(seconds);
        let incidents = &mut self.incidents;
        let ailing = self.watch.observe(self.now, self.counts, || {
            *incidents += 1;
            Incident(*incidents)
        });
        ailing.cloned()
    }

    /// Reports every ten seconds for as long.
    fn through(&mut self, seconds: u64) -> Option<Ailing> {
        (0..seconds / 10).fold(None, |_, _| self.after(10))
    }

    /// A minute with as many requests, of which some are slow.
    fn minute(&mut self, ended: u64, slow: u64) -> Option<Ailing> {
        self.counts.io.begun += ended;
        self.counts.io.ended += ended;
        self.counts.io.slow += slow;
        self.through(60)
    }
}

#[test]
fn damage_within_the_window_passes_the_threshold() {
    let mut bench = Bench::new();
    bench.counts.damage = DAMAGE_MAX - 1;
    assert_eq!(bench.through(600), None);
    bench.counts.damage = DAMAGE_MAX;
    let ailing = bench.after(10).unwrap();
    assert_eq!(ailing.reason, "10 damaged places within 1 h");
    assert_eq!(ailing.incident, Incident(1));
}

#[test]
fn damage_that_comes_slowly_does_not() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.counts.damage += 1;
        bench.counts.read_errors += 3;
        assert_eq!(bench.through(WINDOW.as_secs() / 9 + 60), None);
    }
}

#[test]
fn reads_and_writes_that_fail_count_by_themselves() {
    let mut bench = Bench::new();
    bench.counts.read_errors = READ_ERRORS_MAX;
    let reason = bench.after(10).unwrap().reason;
    assert_eq!(reason, "30 reads that failed within 1 h");
    let mut bench = Bench::new();
    bench.counts.write_errors = WRITE_ERRORS_MAX - 1;
    bench.counts.read_errors = READ_ERRORS_MAX - 1;
    bench.counts.damage = DAMAGE_MAX - 1;
    assert_eq!(bench.after(10), None);
    bench.counts.write_errors += 1;
    let reason = bench.after(10).unwrap().reason;
    assert_eq!(reason, "3 writes that failed within 1 h");
}

#[test]
fn a_verdict_stays_however_quiet_the_disk_becomes() {
    let mut bench = Bench::new();
    bench.counts.damage = DAMAGE_MAX;
    let given = bench.after(10);
    assert!(given.is_some());
    assert_eq!(bench.through(30 * WINDOW.as_secs()), given);
    assert_eq!(bench.incidents, 1);
}

#[test]
fn as_much_again_is_a_new_incident_but_once_in_a_window() {
    let mut bench = Bench::new();
    bench.counts.damage = DAMAGE_MAX;
    let first = bench.after(10);
    // It goes on and on: that is still the same incident.
    for _ in 0..WINDOW.as_secs() / 10 - 1 {
        bench.counts.damage += 1;
        assert_eq!(bench.after(10), first);
    }
    let second = bench.after(10).unwrap();
    assert_eq!(second.incident, Incident(2));
    bench.counts.damage += DAMAGE_MAX - 1;
    assert_eq!(
        bench.through(2 * WINDOW.as_secs()).unwrap().incident,
        Incident(2)
    );
    bench.counts.damage += DAMAGE_MAX;
    assert_eq!(bench.after(10).unwrap().incident, Incident(3));
}

#[test]
fn minutes_of_slow_requests_in_a_row_count() {
    let mut bench = Bench::new();
    for _ in 0..SLOW_STEPS_MAX - 1 {
        assert_eq!(bench.minute(50, 5), None);
    }
    let reason = bench.minute(50, 5).unwrap().reason;
    assert_eq!(reason, "a request in 10 or more took over 2 s, for 5 min");
}

#[test]
fn a_minute_that_is_not_slow_begins_the_row_anew_and_an_idle_one_does_not() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        assert_eq!(bench.minute(50, 5), None);
        assert_eq!(bench.minute(50, 5), None);
        // Few of many, then few at all.
        assert_eq!(bench.minute(1000, 99), None);
        assert_eq!(bench.minute(50, 5), None);
        assert_eq!(bench.minute(2, 2), None);
    }
    for _ in 0..SLOW_STEPS_MAX - 1 {
        assert_eq!(bench.minute(50, 50), None);
        assert_eq!(bench.minute(0, 0), None);
    }
    assert!(bench.minute(50, 50).is_some());
}

#[test]
fn requests_that_never_end_are_slow() {
    let mut bench = Bench::new();
    bench.counts.io.begun = 1;
    // The first minute began before the request.
    for _ in 0..SLOW_STEPS_MAX {
        assert_eq!(bench.through(60), None);
    }
    assert!(bench.through(60).is_some());
}

#[test]
fn a_pause_of_the_store_is_no_slowness() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        for _ in 0..SLOW_STEPS_MAX - 1 {
            assert_eq!(bench.minute(50, 50), None);
        }
        bench.counts.io.begun += 10;
        bench.counts.io.ended += 10;
        bench.counts.io.slow += 10;
        assert_eq!(bench.after(3 * STEP.as_secs()), None);
    }
}

/// It spins down when nobody asks, and takes seconds to wake: five times in a day are no five minutes.
#[test]
fn a_disk_that_sleeps_between_is_not_slow() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        assert_eq!(bench.minute(5, 5), None);
        for _ in 0..30 {
            assert_eq!(bench.minute(0, 0), None);
        }
    }
}
