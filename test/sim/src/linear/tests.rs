//! Histories that have an order, and histories that have none.

use super::*;
use crate::history::Life;

#[derive(Default)]
struct Script {
    history: History,
    life: Life,
}

impl Script {
    fn new() -> Self {
        let mut script = Self::default();
        script.serve(false);
        script
    }

    fn serve(&mut self, lossy: bool) {
        self.life = self.history.serve(lossy);
    }

    fn begin(&mut self, kind: OpKind) -> OpId {
        self.history.begin(self.life, kind, 0..1, false)
    }

    fn write(&mut self) -> OpId {
        let id = self.begin(OpKind::Write);
        self.history.end(id, Ending::Done);
        id
    }

    fn zero(&mut self) {
        let id = self.begin(OpKind::Zero);
        self.history.end(id, Ending::Done);
    }

    fn begin_read(&mut self, value: u32) -> OpId {
        self.begin(OpKind::Read(vec![value]))
    }

    fn read(&mut self, value: u32) {
        let id = self.begin_read(value);
        self.end(id);
    }

    fn end(&mut self, id: OpId) {
        self.history.end(id, Ending::Done);
    }

    fn flush(&mut self) {
        let (invoked, done) = (self.history.tick(), self.history.tick());
        self.history.flushes.push(Flush { invoked, done });
    }

    fn good(&self) -> bool {
        check(&self.history, 1).is_ok()
    }
}

#[test]
fn reads_see_the_last_write() {
    let mut script = Script::new();
    script.read(0);
    let first = script.write();
    script.read(first);
    let second = script.write();
    script.read(second);
    script.zero();
    script.read(0);
    assert!(script.good());
    script.read(first);
    assert!(!script.good());
}

#[test]
fn concurrent_reads_may_see_either_but_not_back_and_forth() {
    let mut script = Script::new();
    let first = script.write();
    let second = script.begin(OpKind::Write);
    let early = script.begin_read(first);
    script.read(second);
    script.end(early);
    script.end(second);
    assert!(script.good());
    let mut script = Script::new();
    let first = script.write();
    let second = script.begin(OpKind::Write);
    script.read(second);
    script.read(first);
    script.end(second);
    assert!(!script.good());
}

#[test]
fn an_unacknowledged_write_never_comes_and_goes() {
    let mut script = Script::new();
    let first = script.write();
    let lost = script.begin(OpKind::Write);
    script.serve(false);
    script.read(lost);
    script.read(lost);
    assert!(script.good());
    script.read(first);
    assert!(!script.good());
    let mut script = Script::new();
    let first = script.write();
    let lost = script.begin(OpKind::Write);
    script.serve(false);
    script.read(first);
    assert!(script.good());
    script.read(lost);
    assert!(
        !script.good(),
        "it cannot take effect after the next owner served"
    );
}

#[test]
fn acknowledged_writes_are_lost_only_where_caches_were() {
    for (lossy, flushed, good) in [
        (false, false, false),
        (true, false, true),
        (true, true, false),
    ] {
        let mut script = Script::new();
        let first = script.write();
        script.flush();
        script.write();
        if flushed {
            script.flush();
        }
        script.serve(lossy);
        script.read(first);
        assert_eq!(script.good(), good, "lossy {lossy} flushed {flushed}");
    }
}

#[test]
fn a_loss_happens_once() {
    let mut script = Script::new();
    let first = script.write();
    let second = script.write();
    script.serve(true);
    script.read(first);
    script.serve(true);
    assert!(script.good());
    script.read(second);
    assert!(!script.good());
}

#[test]
fn a_flush_covers_only_what_completed_before_it() {
    let mut script = Script::new();
    let first = script.write();
    script.flush();
    let second = script.begin(OpKind::Write);
    let invoked = script.history.tick();
    script.end(second);
    let done = script.history.tick();
    script.history.flushes.push(Flush { invoked, done });
    script.serve(true);
    script.read(first);
    assert!(script.good());
}

#[test]
fn refused_writes_take_no_effect() {
    let mut script = Script::new();
    let first = script.write();
    let refused = script.begin(OpKind::Write);
    script.history.end(refused, Ending::Refused);
    script.read(first);
    assert!(script.good());
    script.read(refused);
    assert!(!script.good());
}

#[test]
fn a_replaced_owner_shows_nothing_old() {
    let mut script = Script::new();
    let first = script.write();
    let old = script.life;
    script.serve(false);
    // Nothing was written since: it may be the present.
    let late = script
        .history
        .begin(old, OpKind::Read(vec![first]), 0..1, false);
    script.end(late);
    assert!(script.good());
    script.write();
    let stale = script
        .history
        .begin(old, OpKind::Read(vec![first]), 0..1, false);
    assert!(script.good(), "it has not returned");
    script.end(stale);
    assert!(!script.good());
}

#[test]
fn what_a_replaced_owner_acknowledges_late_stands() {
    let mut script = Script::new();
    let first = script.write();
    let stale = script.begin_read(first);
    let late = script.begin(OpKind::Write);
    script.serve(false);
    let second = script.write();
    script.end(stale);
    script.end(late);
    script.read(second);
    assert!(script.good());
    script.read(late);
    assert!(!script.good());
}
