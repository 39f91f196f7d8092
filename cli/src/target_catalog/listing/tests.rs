//! A listing in a simulated world, of a conductor that says how often it was asked.

use std::future::Future;
use std::net::IpAddr;

use ashlar_proto::VolumeId;
use ashlar_reactor::future::join_all;
use ashlar_reactor::sim::World;

use super::super::offer::UnitOf;
use super::*;

/// How long an answer takes.
const ANSWER: Duration = Duration::from_millis(100);

/// Each answer is one volume, numbered by the questions that had begun before it.
struct Counting {
    reactor: Reactor,
    asked: Cell<u64>,
    at_once_most: Cell<u32>,
    at_once: Cell<u32>,
    is_away: Cell<bool>,
}

impl Lists for Rc<Counting> {
    async fn list(&self) -> Option<Listed> {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        self.at_once.set(self.at_once.get() + 1);
        let most = self.at_once_most.get().max(self.at_once.get());
        self.at_once_most.set(most);
        self.reactor.sleep(ANSWER).await;
        self.at_once.set(self.at_once.get() - 1);
        if self.is_away.get() {
            return None;
        }
        Some(Listed {
            units: vec![UnitOf {
                volume: VolumeId::new(number),
                volume_name: "v".to_owned(),
                layer: None,
                publication: None,
            }],
        })
    }
}

fn number(listed: &Listed) -> u64 {
    listed.units.first().map_or(0, |unit| unit.volume.get())
}

fn story<F: Future<Output = ()>>(
    tell: impl FnOnce(Reactor, Rc<Listing<Rc<Counting>>>, Rc<Counting>) -> F,
) {
    let world = World::new(1);
    let process = world.process("iscsi", IpAddr::from([10, 0, 0, 1]));
    let reactor = process.reactor().clone();
    let counting = Rc::new(Counting {
        reactor: reactor.clone(),
        asked: Cell::default(),
        at_once_most: Cell::default(),
        at_once: Cell::default(),
        is_away: Cell::default(),
    });
    let listing = Rc::new(Listing::new(&reactor, Rc::clone(&counting)));
    let ended = world.run(Duration::from_secs(60), tell(reactor, listing, counting));
    ended.expect("the story ends");
}

#[test]
fn many_who_want_to_know_ask_once_and_get_what_was_said_after_they_came() {
    story(|reactor, listing, counting| async move {
        let first = listing.renewed();
        let later = async {
            reactor.sleep(ANSWER / 2).await;
            let all = (0..10).map(|_| listing.renewed());
            join_all(all).await
        };
        let (first, later) = futures_of(first, later).await;
        assert_eq!(number(&first), 1);
        // The first question was under way when they came.
        assert!(later.iter().all(|listed| number(listed) == 2));
        assert_eq!((counting.asked.get(), counting.at_once_most.get()), (2, 1));
    });
}

#[test]
fn what_was_said_counts_while_the_conductor_is_away() {
    story(|_, listing, counting| async move {
        assert_eq!(number(&*listing.renewed().await), 1);
        counting.is_away.set(true);
        assert_eq!(number(&*listing.renewed().await), 1);
        counting.is_away.set(false);
        assert_eq!(number(&*listing.renewed().await), 3);
    });
}

#[test]
fn a_question_that_nobody_waits_for_any_more_holds_up_nobody() {
    story(|reactor, listing, counting| async move {
        let given_up = reactor.timeout(ANSWER / 2, listing.renewed()).await;
        assert!(given_up.is_err());
        assert_eq!(number(&*listing.renewed().await), 2);
        assert_eq!(counting.asked.get(), 2);
    });
}

#[test]
fn what_was_said_is_fresh_for_a_moment_or_until_it_is_in_doubt() {
    story(|reactor, listing, _| async move {
        assert!(listing.fresh().is_none());
        listing.renewed().await;
        assert_eq!(listing.fresh().map(|listed| number(&listed)), Some(1));
        listing.doubt();
        assert!(listing.fresh().is_none());
        listing.renewed().await;
        reactor.sleep(FRESH).await;
        assert!(listing.fresh().is_none());
    });
}

/// Both of them, at the same time.
async fn futures_of<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut first, mut second) = (None, None);
    {
        let one: std::pin::Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(async { first = Some(one.await) });
        let other: std::pin::Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(async { second = Some(other.await) });
        join_all([one, other]).await;
    }
    (first.expect("it has ended"), second.expect("it has ended"))
}
