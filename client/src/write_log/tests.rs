//! The log against the rules, by example and by random walks beside a plain model.

use super::*;
use ashlar_proto::Window;
use ashlar_proto::api::AckRule;
use proptest::prelude::*;

const NOWHERE: DurableUpTo = [Acceptance::NONE; SLOTS_MAX];

fn seq(number: u64) -> Seq {
    Seq::from_raw(Window::new(5).start().get() + number).unwrap()
}

fn span(block: u32) -> Span {
    Span {
        block: BlockIndex::new(block),
        count: BlockCount::new(1),
    }
}

fn slot(position: usize) -> Slot {
    Slot::new(position)
}

fn order(number: u64) -> AckOrder {
    AckOrder(number)
}

fn majority_of_three() -> WriteLog<()> {
    WriteLog::new(Quorum::new(AckRule::Majority, Mask::first(3)))
}

fn durable_on(log: &mut WriteLog<()>, slots: &[usize], number: u64, acked: u64) -> bool {
    let mut done = false;
    for &position in slots {
        let accepted = log.accept(
            slot(position),
            seq(number),
            Acceptance::DURABLE,
            order(acked),
        );
        done |= accepted.is_some();
    }
    done
}

#[test]
fn majority_acknowledges_and_all_make_stable() {
    let mut log = majority_of_three();
    log.push(seq(1), span(0), 4096, ());
    assert!(!durable_on(&mut log, &[0], 1, 1));
    assert!(log.is_unacked(seq(1)));
    assert!(durable_on(&mut log, &[1], 1, 1));
    assert_eq!(log.settle(&NOWHERE), 0);
    assert_eq!(log.stable(seq(1)), seq(0));
    assert!(!durable_on(&mut log, &[2], 1, 2), "acknowledged once");
    assert_eq!(log.settle(&NOWHERE), 4096);
    assert_eq!(log.stable(seq(9)), seq(9));
}

#[test]
fn a_replica_that_lacks_an_acknowledged_write_is_not_read_there() {
    let mut log = majority_of_three();
    log.push(seq(1), span(7), 4096, ());
    assert_eq!(log.readable(span(7)), Mask::first(3));
    durable_on(&mut log, &[0, 1], 1, 1);
    assert_eq!(log.readable(span(7)), Mask::first(2));
    assert_eq!(log.readable(span(8)), Mask::first(3));
    durable_on(&mut log, &[2], 1, 1);
    assert_eq!(log.readable(span(7)), Mask::first(3));
}

#[test]
fn a_volatile_restart_uncounts_what_was_not_flushed() {
    let mut log = majority_of_three();
    let first = Acceptance::DURABLE.next();
    let second = first.next();
    for (number, acceptance) in [(1, first), (2, second)] {
        log.push(seq(number), span(0), 4096, ());
        for position in 0..3 {
            log.accept(slot(position), seq(number), acceptance, order(number));
        }
    }
    let mut durable = [first; SLOTS_MAX];
    let all = FlushNeed::Flush([second, second, second, Acceptance::NONE]);
    assert_eq!(log.flush_need(order(2), &durable), all);
    assert_eq!(log.flush_need(order(1), &durable), FlushNeed::Satisfied);
    log.set_behind(slot(0));
    log.forget(slot(0), durable[0]);
    assert_eq!(log.missing(slot(0)), [seq(2)]);
    durable[1] = second;
    assert_eq!(
        log.flush_need(order(2), &durable),
        FlushNeed::Flush([Acceptance::NONE, Acceptance::NONE, second, Acceptance::NONE])
    );
    durable[2] = second;
    assert_eq!(log.flush_need(order(2), &durable), FlushNeed::Satisfied);
    log.settle(&durable);
    assert_eq!(log.stable(seq(2)), seq(1));
}

#[test]
fn a_set_is_proposed_only_when_its_members_hold_everything() {
    let mut log = majority_of_three();
    log.push(seq(1), span(0), 4096, ());
    durable_on(&mut log, &[0, 2], 1, 1);
    log.set_behind(slot(2));
    let next = Mask::first(2);
    assert!(!log.may_propose(next, AckOrder::NONE, &NOWHERE));
    durable_on(&mut log, &[1], 1, 1);
    assert!(log.may_propose(next, AckOrder::NONE, &NOWHERE));
    log.propose(next);
    assert!(!log.may_propose(next, AckOrder::NONE, &NOWHERE));
    log.commit();
    log.settle(&NOWHERE);
    assert_eq!(log.stable(seq(1)), seq(1));
}

#[test]
fn stable_stays_where_a_lost_replica_left_it() {
    let mut log = majority_of_three();
    log.set_lost(slot(2));
    log.push(seq(1), span(0), 4096, ());
    durable_on(&mut log, &[0, 1], 1, 1);
    assert_eq!(log.settle(&NOWHERE), 4096);
    assert_eq!(log.stable(seq(1)), seq(0));
    log.propose(Mask::first(2));
    log.commit();
    assert_eq!(log.stable(seq(1)), seq(1));
}

#[test]
fn a_commit_acknowledges_what_waited_for_the_one_who_left() {
    let quorum = Quorum::new(AckRule::All, Mask::first(2));
    let mut log: WriteLog<()> = WriteLog::new(quorum);
    log.push(seq(1), span(0), 0, ());
    assert!(!durable_on(&mut log, &[0], 1, 1));
    log.set_behind(slot(1));
    log.propose(Mask::first(1));
    assert_eq!(log.acknowledge_ready(order(0)).1, []);
    log.commit();
    assert_eq!(log.acknowledge_ready(order(0)), (order(1), vec![seq(1)]));
    assert!(!log.is_unacked(seq(1)));
}

#[test]
fn a_refused_write_leaves_no_trace() {
    let mut log = majority_of_three();
    log.push(seq(1), span(0), 4096, ());
    log.push(seq(2), span(1), 4096, ());
    assert!(log.remove_refused(seq(1)).is_some());
    assert_eq!(log.bytes(), 4096);
    assert!(log.is_unacked(seq(2)) && !log.is_unacked(seq(1)));
}

/// What one replica of the plain model has.
#[derive(Clone, Default)]
struct ModelReplica {
    cached: Vec<u64>,
    durable: Vec<u64>,
    counter: u64,
    flushed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Accept { slot: usize, pick: usize },
    Flush { slot: usize },
    Restart { slot: usize },
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Push),
        8 => (0usize..3, 0usize..8).prop_map(|(slot, pick)| Step::Accept { slot, pick }),
        2 => (0usize..3).prop_map(|slot| Step::Flush { slot }),
        1 => (0usize..3).prop_map(|slot| Step::Restart { slot }),
        2 => Just(Step::Settle),
    ]
}

proptest! {
    /// Whatever is acknowledged was on `a` replicas; whatever a satisfied flush covers is durable
    /// on `a`; whatever stable passes is durable on all.
    #[test]
    fn counts_follow_the_replicas(steps in prop::collection::vec(step(), 1..200), all in any::<bool>()) {
        let rule = if all { AckRule::All } else { AckRule::Majority };
        let quorum = Quorum::new(rule, Mask::first(3));
        let mut log: WriteLog<()> = WriteLog::new(quorum);
        let mut replicas = vec![ModelReplica::default(); 3];
        let mut issued = 0;
        let mut acked: Vec<u64> = Vec::new();
        let need = rule.ack_count(3);
        for step in steps {
            match step {
                Step::Push => {
                    issued += 1;
                    log.push(seq(issued), span(0), 1, ());
                }
                Step::Accept { slot: at, pick } => {
                    let missing = log.missing(slot(at));
                    let Some(&wanted) = missing.get(pick) else { continue };
                    let number = wanted.get() - seq(0).get();
                    let replica = &mut replicas[at];
                    replica.counter += 1;
                    replica.cached.push(number);
                    let acceptance = Acceptance(replica.counter + 1);
                    let next = order(acked.len() as u64 + 1);
                    if log.accept(slot(at), wanted, acceptance, next).is_some() {
                        acked.push(number);
                        let on = replicas.iter().filter(|r| r.cached.contains(&number) || r.durable.contains(&number));
                        prop_assert!(on.count() >= need);
                    }
                }
                Step::Flush { slot: at } => {
                    let replica = &mut replicas[at];
                    let cached = replica.cached.clone();
                    replica.durable.extend(cached);
                    replica.flushed = replica.counter;
                }
                Step::Restart { slot: at } => {
                    let replica = &mut replicas[at];
                    replica.cached = replica.durable.clone();
                    log.forget(slot(at), Acceptance(replica.flushed + 1));
                }
                Step::Settle => {}
            }
            let mut durable = NOWHERE;
            for (at, replica) in replicas.iter().enumerate() {
                durable[at] = Acceptance(replica.flushed + 1);
            }
            if matches!(step, Step::Settle) {
                log.settle(&durable);
            }
            let durable_count = |number: u64| replicas.iter().filter(|r| r.durable.contains(&number)).count();
            let stable = log.stable(seq(issued)).get() - seq(0).get();
            for number in 1..=stable {
                prop_assert_eq!(durable_count(number), 3, "stable passed {}", number);
            }
            for upto in 0..=acked.len() {
                let satisfied = log.flush_need(order(upto as u64), &durable) == FlushNeed::Satisfied;
                let really = acked[..upto].iter().all(|&number| durable_count(number) >= need);
                prop_assert_eq!(satisfied, really);
            }
        }
    }
}
