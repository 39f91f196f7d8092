//! The crew in a simulated world, with volumes that are only counted.

use std::cell::Cell;
use std::net::IpAddr;

use ashlar_proto::VolumeId;
use ashlar_reactor::sim::World;

use super::*;

/// What became of the volumes.
#[derive(Default)]
struct Seen {
    attaches: Cell<u32>,
    detaches: Cell<u32>,
    held: Cell<i32>,
    held_most: Cell<i32>,
    /// Attaches that fail before one succeeds.
    failures: Cell<u32>,
    is_lost: Cell<bool>,
    /// How long an attach takes.
    takes: Cell<Duration>,
}

struct CountingKeeper {
    reactor: Reactor,
    seen: Rc<Seen>,
}

impl Keeper for CountingKeeper {
    type Held = ();
    type Error = &'static str;

    async fn attach(&self, _: &str) -> Result<(), &'static str> {
        let seen = &self.seen;
        seen.attaches.set(seen.attaches.get() + 1);
        self.reactor.sleep(seen.takes.get()).await;
        if seen.failures.get() > 0 {
            seen.failures.set(seen.failures.get() - 1);
            return Err("refused");
        }
        seen.is_lost.set(false);
        seen.held.set(seen.held.get() + 1);
        seen.held_most
            .set(seen.held_most.get().max(seen.held.get()));
        Ok(())
    }

    fn is_lost(&self, (): &()) -> bool {
        self.seen.is_lost.get()
    }

    async fn detach(&self, (): ()) {
        self.reactor.sleep(Duration::from_millis(100)).await;
        self.seen.held.set(self.seen.held.get() - 1);
        self.seen.detaches.set(self.seen.detaches.get() + 1);
    }
}

fn task(number: u64) -> RepairTask {
    RepairTask {
        volume: VolumeId::new(number),
        name: format!("v{number}"),
        fence: false,
    }
}

/// Runs a story of one crew.
fn story<F: Future<Output = ()>>(
    tell: impl FnOnce(Reactor, Rc<Crew<CountingKeeper>>, Rc<Seen>) -> F,
) {
    let world = World::new(1);
    let process = world.process("store", IpAddr::from([10, 0, 0, 1]));
    let seen = Rc::new(Seen::default());
    let reactor = process.reactor().clone();
    let keeper = CountingKeeper {
        reactor: reactor.clone(),
        seen: Rc::clone(&seen),
    };
    let crew = Crew::new(&reactor, keeper);
    let ended = world.run(Duration::from_secs(3600), tell(reactor, crew, seen));
    ended.expect("the story ends");
}

#[test]
fn a_volume_is_held_while_its_task_stands() {
    story(|reactor, crew, seen| async move {
        crew.set(vec![task(1), task(2)]);
        reactor.sleep(Duration::from_secs(300)).await;
        assert_eq!((seen.attaches.get(), seen.held.get()), (2, 2));
        crew.set(vec![task(2)]);
        reactor.sleep(Duration::from_secs(1)).await;
        assert_eq!((seen.detaches.get(), seen.held.get()), (1, 1));
        crew.stop().await;
        assert_eq!((seen.attaches.get(), seen.held.get()), (2, 0));
    });
}

#[test]
fn a_volume_that_is_only_to_be_fenced_is_let_go_at_once() {
    story(|reactor, crew, seen| async move {
        let fence = RepairTask {
            fence: true,
            ..task(1)
        };
        crew.set(vec![fence]);
        reactor.sleep(Duration::from_millis(500)).await;
        assert_eq!((seen.attaches.get(), seen.detaches.get()), (1, 1));
        crew.set(vec![]);
        reactor.sleep(Duration::from_secs(100)).await;
        assert_eq!(seen.attaches.get(), 1);
        crew.stop().await;
    });
}

#[test]
fn what_fails_is_tried_again_ever_more_seldom() {
    story(|reactor, crew, seen| async move {
        seen.failures.set(u32::MAX);
        crew.set(vec![task(1)]);
        reactor.sleep(Duration::from_secs(10)).await;
        assert_eq!(seen.attaches.get(), 4, "at 0, 1, 3 and 7 s");
        reactor.sleep(Duration::from_secs(600)).await;
        assert!((10..=16).contains(&seen.attaches.get()));
        seen.failures.set(0);
        reactor.sleep(Duration::from_secs(61)).await;
        assert_eq!(seen.held.get(), 1);
        crew.stop().await;
    });
}

#[test]
fn an_owner_that_lost_its_volume_lets_go_and_tries_again_while_the_task_stands() {
    story(|reactor, crew, seen| async move {
        crew.set(vec![task(1)]);
        reactor.sleep(Duration::from_secs(20)).await;
        seen.is_lost.set(true);
        reactor.sleep(Duration::from_secs(5)).await;
        assert_eq!((seen.attaches.get(), seen.detaches.get()), (2, 1));
        assert_eq!(seen.held.get(), 1);
        crew.stop().await;
    });
}

#[test]
fn a_task_that_comes_and_goes_is_never_held_twice() {
    story(|reactor, crew, seen| async move {
        seen.takes.set(Duration::from_millis(70));
        for step in 0..200 {
            let tasks = if step % 2 == 0 { vec![task(1)] } else { vec![] };
            crew.set(tasks);
            reactor.sleep(Duration::from_millis(step % 7 * 20)).await;
        }
        crew.set(vec![task(1)]);
        reactor.sleep(Duration::from_secs(5)).await;
        assert_eq!((seen.held.get(), seen.held_most.get()), (1, 1));
        crew.stop().await;
        assert_eq!(seen.held.get(), 0);
    });
}

#[test]
fn a_stop_does_not_wait_for_an_attach() {
    story(|reactor, crew, seen| async move {
        seen.takes.set(Duration::from_secs(60));
        crew.set(vec![task(1)]);
        reactor.sleep(Duration::from_secs(1)).await;
        let before = reactor.now();
        crew.stop().await;
        assert!(reactor.now() - before < Duration::from_secs(1));
        assert_eq!((seen.attaches.get(), seen.held.get()), (1, 0));
        // What the agent still sends comes too late.
        crew.set(vec![task(2)]);
        reactor.sleep(Duration::from_secs(100)).await;
        assert_eq!(seen.attaches.get(), 1);
    });
}
