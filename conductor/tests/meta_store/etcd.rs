//! [`MetaStore`] on etcd: as the suite says, and while members and leaders come and go.

use std::time::{Duration, Instant};

use ashlar_conductor::meta::{Events, Leadership, MetaError, Outcome, Term, Transaction};
use ashlar_conductor::{EtcdError, EtcdStore, MetaStore};
use ashlar_proto::api::Revision;

use crate::members::{Members, elected};
use crate::suite::{commit, committed, conforms, expect, put, terms_are_kept_to, value};

/// Three members elect their own leader faster than by default.
const QUICK: &[&str] = &["--heartbeat-interval=50", "--election-timeout=500"];

/// Without the disk's own time: what is durable is not asked here.
const ONE: &[&str] = &["--unsafe-no-fsync"];

fn one() -> Members {
    Members::start(1, &[])
}

async fn try_commit(
    store: &EtcdStore,
    term: Option<Term>,
    key: &str,
) -> Result<Outcome, MetaError> {
    let transaction = Transaction {
        term,
        expect: vec![],
        changes: vec![put(key, "1")],
    };
    store.commit(transaction).await
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn etcd_conforms() {
    let members = one();
    conforms(&members.open(None).await).await;
}

#[tokio::test]
async fn a_store_opened_again_knows_what_was() {
    let members = one();
    let store = members.open(None).await;
    let first = committed(&store, vec![put("a", "1")]).await;
    let second = committed(&store, vec![put("a", "2")]).await;
    drop(store);
    let store = members.open(None).await;
    assert_eq!(*store.revisions().borrow(), second);
    assert_eq!(value(&store, "a").await, Some("2".to_owned()));
    let events = store.events(first, 10).await.unwrap();
    assert!(matches!(events, Events::Read { list, .. } if list.len() == 1));
}

#[tokio::test]
async fn two_stores_see_each_other_and_conflict() {
    let members = one();
    let (a, b) = (members.open(None).await, members.open(None).await);
    let at = committed(&a, vec![put("x", "a")]).await;
    eventually("b follows", async || *b.revisions().borrow() == at).await;
    let changed = commit(&b, vec![expect("x", Some(at))], vec![put("x", "b")]).await;
    assert!(matches!(changed, Outcome::Committed(_)));
    let late = commit(&a, vec![expect("x", Some(at))], vec![put("x", "late")]).await;
    assert_eq!(late, Outcome::Conflict);
    // The other's commits alone are no conflict.
    for round in 0..20 {
        let store = if round % 2 == 0 { &a } else { &b };
        committed(store, vec![put("y", &round.to_string())]).await;
    }
    assert_eq!(value(&b, "y").await, Some("19".to_owned()));
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_changes_nothing() {
    let members = one();
    let store = members.open(None).await;
    let large = "x".repeat(2 << 20);
    let transaction = |changes| Transaction {
        changes,
        ..Transaction::default()
    };
    let refused = store.commit(transaction(vec![put("a", &large)])).await;
    assert!(matches!(
        refused,
        Err(MetaError::Etcd(EtcdError::TooLarge { .. }))
    ));
    let many = (0..4000).map(|i| put(&i.to_string(), "")).collect();
    let refused = store.commit(transaction(many)).await;
    assert!(matches!(
        refused,
        Err(MetaError::Etcd(EtcdError::TooManyRows { .. }))
    ));
    assert!(store.scan("", None, 1).await.unwrap().rows.is_empty());
    let most = (0..3840).map(|i| put(&i.to_string(), "")).collect();
    committed(&store, most).await;
}

#[tokio::test]
async fn a_leader_is_followed_by_the_next_and_a_former_one_changes_nothing() {
    let members = one();
    let first = members.open(Some("http://first")).await;
    let term = elected(&first).await;
    terms_are_kept_to(&first, term).await;
    let second = members.open(Some("http://second")).await;
    let leader = Some("http://first".to_owned());
    eventually("the second follows", async || {
        second.leadership()
            == Leadership::Follows {
                leader: leader.clone(),
            }
    })
    .await;
    first.resign().await;
    let next = elected(&second).await;
    assert!(next > term);
    let before = *second.revisions().borrow();
    assert_eq!(
        try_commit(&first, Some(term), "late").await.unwrap(),
        Outcome::Deposed
    );
    assert_eq!(
        try_commit(&second, Some(term), "late").await.unwrap(),
        Outcome::Deposed
    );
    assert_eq!(*second.revisions().borrow(), before);
    terms_are_kept_to(&second, next).await;
}

#[tokio::test]
async fn a_leader_that_is_gone_is_replaced() {
    let members = one();
    let first = members.open(Some("http://first")).await;
    let term = elected(&first).await;
    let second = members.open(Some("http://second")).await;
    // Without a word: its lease has to end.
    drop(first);
    assert!(elected(&second).await > term);
}

#[tokio::test]
async fn members_come_and_go_and_no_commit_is_lost_or_made_twice() {
    let mut members = Members::start(3, QUICK);
    let store = members.open(Some("http://here")).await;
    elected(&store).await;
    let mut at = committed(&store, vec![put("n", "0")]).await;
    let mut count = 0_u32;
    for round in 0..4 {
        // Their leader, or one of the others.
        let victim = (members.leader() + round % 2) % 3;
        members.kill(victim);
        for _ in 0..20 {
            count += 1;
            let text = count.to_string();
            let made = commit(&store, vec![expect("n", Some(at))], vec![put("n", &text)]).await;
            // A commit made twice would conflict with itself.
            let Outcome::Committed(next) = made else {
                panic!("commit {count}: {made:?}")
            };
            assert!(next > at);
            at = next;
        }
        members.revive(victim);
    }
    assert_eq!(value(&store, "n").await, Some(count.to_string()));
    let row = store
        .read(&ashlar_conductor::meta::Key::new("n"))
        .await
        .unwrap();
    assert_eq!(row.unwrap().modified, at);
}

#[tokio::test]
async fn without_a_majority_nothing_is_changed_and_nobody_leads() {
    let mut members = Members::start(3, QUICK);
    let store = members.open(Some("http://here")).await;
    let term = elected(&store).await;
    committed(&store, vec![put("a", "1")]).await;
    members.kill(0);
    members.kill(1);
    eventually("it leads no more", async || {
        !matches!(store.leadership(), Leadership::Leads { .. })
    })
    .await;
    let refused = try_commit(&store, Some(term), "b").await.unwrap_err();
    let MetaError::Etcd(refused) = refused else {
        panic!("{refused}")
    };
    assert!(
        matches!(
            refused,
            EtcdError::Unavailable { .. } | EtcdError::OutcomeUnknown { .. }
        ),
        "{refused}"
    );
    members.revive(0);
    members.revive(1);
    // In the same term, if its key is still there: nobody else has led.
    assert!(elected(&store).await >= term);
    committed(&store, vec![put("c", "1")]).await;
}

#[tokio::test]
async fn history_that_was_compacted_is_told_of_and_the_rest_is_followed() {
    let mut members = Members::start(1, ONE);
    let writer = members.open(None).await;
    let start = committed(&writer, vec![put("a", "0")]).await;
    for _ in 0..10 {
        committed(&writer, vec![put("a", "1")]).await;
    }
    let now = committed(&writer, vec![put("a", "2")]).await;
    members.control(0, &["compact", &now.0.to_string()]);
    // One that is opened behind it has the rows, and says what it does not have.
    let late = members.open(None).await;
    assert_eq!(*late.revisions().borrow(), now);
    assert_eq!(late.events(start, 10).await.unwrap(), Events::Compacted);
    assert_eq!(value(&late, "a").await, Some("2".to_owned()));
    let next = committed(&writer, vec![put("a", "3")]).await;
    eventually("it follows", async || *late.revisions().borrow() == next).await;
    let events = late.events(now, 10).await.unwrap();
    assert!(matches!(events, Events::Read { list, up_to } if list.len() == 1 && up_to == next));
    // One that was cut off meanwhile begins anew.
    members.kill(0);
    members.revive(0);
    eventually("it answers", async || {
        late.read(&ashlar_conductor::meta::Key::new("a"))
            .await
            .is_ok()
    })
    .await;
    assert!(matches!(
        late.events(Revision(now.0), 10).await.unwrap(),
        Events::Read { .. }
    ));
}

#[tokio::test]
async fn a_database_that_is_full_is_said_to_be() {
    let members = Members::start(1, &["--quota-backend-bytes=2097152"]);
    let store = members.open(None).await;
    let large = "x".repeat(400_000);
    let mut tries = 0;
    let error = loop {
        let transaction = Transaction {
            changes: vec![put(&tries.to_string(), &large)],
            ..Transaction::default()
        };
        match store.commit(transaction).await {
            Ok(_) => tries += 1,
            Err(error) => break error,
        }
        assert!(tries < 50, "it takes more than its quota");
    };
    assert!(matches!(error, MetaError::Etcd(EtcdError::Full)), "{error}");
    // What is there is read, and once there is room it goes on.
    assert!(value(&store, "0").await.is_some());
    let now = store.revisions().borrow().0;
    members.control(0, &["del", "/ashlar/row/", "--prefix"]);
    members.control(0, &["compact", &(now + 1).to_string()]);
    members.control(0, &["defrag"]);
    members.control(0, &["alarm", "disarm"]);
    eventually("it takes writes again", async || {
        try_commit(&store, None, "b").await.is_ok()
    })
    .await;
}
