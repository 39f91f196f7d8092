//! What any implementation of [`MetaStore`] must do.

use ashlar_conductor::MetaStore;
use ashlar_conductor::meta::{
    Change, Events, Expect, Key, Outcome, PAGE_ROWS_MAX, Term, Transaction,
};
use ashlar_proto::api::Revision;

pub fn put(key: &str, value: &str) -> Change {
    Change::Put {
        key: Key::new(key),
        value: value.as_bytes().to_vec(),
    }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: Key::new(key) }
}

pub fn expect(key: &str, modified: Option<Revision>) -> Expect {
    Expect {
        key: Key::new(key),
        modified,
    }
}

pub async fn commit(store: &impl MetaStore, expect: Vec<Expect>, changes: Vec<Change>) -> Outcome {
    let transaction = Transaction {
        term: None,
        expect,
        changes,
    };
    store.commit(transaction).await.unwrap()
}

pub async fn committed(store: &impl MetaStore, changes: Vec<Change>) -> Revision {
    match commit(store, vec![], changes).await {
        Outcome::Committed(revision) => revision,
        other => panic!("nothing was expected: {other:?}"),
    }
}

pub async fn value(store: &impl MetaStore, key: &str) -> Option<String> {
    let row = store.read(&Key::new(key)).await.unwrap();
    row.map(|row| String::from_utf8(row.value).unwrap())
}

/// Every rule, on a fresh and empty store.
pub async fn conforms(store: &impl MetaStore) {
    rows_bear_their_revisions(store).await;
    transactions_are_all_or_nothing(store).await;
    many_rows_are_expected_at_once(store).await;
    scans_are_ordered_and_paged(store).await;
    events_are_complete_and_ordered(store).await;
    old_events_are_compacted(store).await;
}

async fn rows_bear_their_revisions(store: &impl MetaStore) {
    assert_eq!(store.read(&Key::new("a")).await.unwrap(), None);
    let first = committed(store, vec![put("a", "1")]).await;
    let second = committed(store, vec![put("a", "2"), put("b", "2")]).await;
    assert!(second > first);
    assert_eq!(*store.revisions().borrow(), second);
    let row = store.read(&Key::new("a")).await.unwrap().unwrap();
    assert_eq!(
        (row.created, row.modified, row.value),
        (first, second, b"2".to_vec())
    );
}

async fn transactions_are_all_or_nothing(store: &impl MetaStore) {
    let at = committed(store, vec![put("c", "1")]).await;
    let wrong = [
        expect("c", None),
        expect("c", Some(Revision(at.0 - 1))),
        expect("d", Some(at)),
    ];
    for expect in wrong {
        let outcome = commit(store, vec![expect], vec![put("c", "x"), put("d", "x")]).await;
        assert_eq!(outcome, Outcome::Conflict);
    }
    assert_eq!(
        (value(store, "c").await, value(store, "d").await),
        (Some("1".to_owned()), None)
    );
    assert_eq!(*store.revisions().borrow(), at);
    let right = vec![expect("c", Some(at)), expect("d", None)];
    let outcome = commit(store, right, vec![delete("c"), put("d", "1")]).await;
    assert!(
        matches!(outcome, Outcome::Committed(next) if next > at),
        "{outcome:?}"
    );
    assert_eq!(
        (value(store, "c").await, value(store, "d").await),
        (None, Some("1".to_owned()))
    );
}

/// More than an implementation may be able to compare in one go.
async fn many_rows_are_expected_at_once(store: &impl MetaStore) {
    let keys: Vec<String> = (0..400).map(|i| format!("many/{i}")).collect();
    let all = |value: &str| keys.iter().map(|key| put(key, value)).collect::<Vec<_>>();
    let none: Vec<Expect> = keys.iter().map(|key| expect(key, None)).collect();
    let Outcome::Committed(made) = commit(store, none.clone(), all("1")).await else {
        panic!("there were none")
    };
    assert_eq!(commit(store, none, all("2")).await, Outcome::Conflict);
    let mut seen: Vec<Expect> = keys.iter().map(|key| expect(key, Some(made))).collect();
    let changed = committed(store, vec![put("many/399", "x")]).await;
    let outcome = commit(store, seen.clone(), all("3")).await;
    assert_eq!(outcome, Outcome::Conflict);
    assert_eq!(value(store, "many/0").await, Some("1".to_owned()));
    seen[399].modified = Some(changed);
    let removal: Vec<Change> = keys.iter().map(|key| delete(key)).collect();
    let outcome = commit(store, seen, removal).await;
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    assert!(store.scan("many/", None, 1).await.unwrap().rows.is_empty());
}

async fn scans_are_ordered_and_paged(store: &impl MetaStore) {
    let keys: Vec<String> = (0..PAGE_ROWS_MAX + 5)
        .map(|i| format!("scan/{i:05}"))
        .collect();
    committed(store, keys.iter().rev().map(|key| put(key, "")).collect()).await;
    committed(store, vec![put("scan0", ""), put("scam/1", "")]).await;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store
            .scan("scan/", after.as_ref(), usize::MAX)
            .await
            .unwrap();
        assert!(page.rows.len() <= PAGE_ROWS_MAX);
        found.extend(page.rows.iter().map(|row| row.key.as_str().to_owned()));
        after = page.rows.last().map(|row| row.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(found, keys);
    let page = store
        .scan("scan/", Some(&Key::new("scan/00002")), 2)
        .await
        .unwrap();
    let names: Vec<&str> = page.rows.iter().map(|row| row.key.as_str()).collect();
    assert_eq!((names, page.more), (vec!["scan/00003", "scan/00004"], true));
    assert!(store.scan("none/", None, 10).await.unwrap().rows.is_empty());
}

async fn events_are_complete_and_ordered(store: &impl MetaStore) {
    let start = *store.revisions().borrow();
    let made = committed(store, vec![put("e", "1"), put("f", "1")]).await;
    let changed = committed(store, vec![put("e", "2")]).await;
    let removed = committed(store, vec![delete("e"), delete("never there")]).await;
    let Events::Read { list, up_to } = store.events(start, 100).await.unwrap() else {
        panic!("just made")
    };
    let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8(bytes).unwrap());
    let seen: Vec<_> = list
        .into_iter()
        .map(|e| (e.revision, e.key.to_string(), text(e.value), text(e.before)))
        .collect();
    let one = || Some("1".to_owned());
    let two = || Some("2".to_owned());
    let expected = [
        (made, "e".to_owned(), one(), None),
        (made, "f".to_owned(), one(), None),
        (changed, "e".to_owned(), two(), one()),
        (removed, "e".to_owned(), None, two()),
    ];
    assert_eq!(seen, expected);
    assert_eq!(up_to, removed);
    // A limit never splits a transaction.
    let Events::Read { list, up_to } = store.events(start, 1).await.unwrap() else {
        panic!("just made")
    };
    assert_eq!((list.len(), up_to), (2, made));
    let nothing = Events::Read {
        list: vec![],
        up_to: removed,
    };
    assert_eq!(store.events(removed, 100).await.unwrap(), nothing);
    let ahead = Revision(removed.0 + 1);
    assert_eq!(store.events(ahead, 100).await.unwrap(), Events::Compacted);
}

async fn old_events_are_compacted(store: &impl MetaStore) {
    let start = *store.revisions().borrow();
    let mut tries = 0;
    while store.events(start, 1).await.unwrap() != Events::Compacted {
        committed(store, vec![put("g", "")]).await;
        tries += 1;
        assert!(tries < 10_000, "events are bounded");
    }
    let now = *store.revisions().borrow();
    for _ in 0..100 {
        committed(store, vec![put("g", "")]).await;
    }
    let recent = store.events(now, 1000).await.unwrap();
    assert!(matches!(recent, Events::Read { list, .. } if list.len() == 100));
}

/// A store that whoever has it open leads, or that was elected.
pub async fn terms_are_kept_to(store: &impl MetaStore, term: Term) {
    let at = |term| Transaction {
        term: Some(term),
        expect: vec![],
        changes: vec![put("term", "1")],
    };
    let outcome = store.commit(at(term)).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    let before = *store.revisions().borrow();
    let outcome = store.commit(at(Term(term.0 + 1))).await.unwrap();
    assert_eq!(outcome, Outcome::Deposed);
    assert_eq!(*store.revisions().borrow(), before);
}
