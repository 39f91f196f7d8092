//! [`MetaStore`] on redb.

use ashlar_conductor::meta::{Events, Leadership, MetaError};
use ashlar_conductor::{MetaStore, RedbStore};
use ashlar_proto::api::Revision;

use crate::suite::{committed, conforms, put, terms_are_kept_to, value};

#[tokio::test]
async fn redb_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path().join("new/meta"));
    let store = store.await.unwrap();
    conforms(&store).await;
    let Leadership::Leads { term } = store.leadership() else {
        panic!("nobody else can have it open")
    };
    terms_are_kept_to(&store, term).await;
}

#[tokio::test]
async fn redb_keeps_everything_when_reopened() {
    let directory = tempfile::tempdir().unwrap();
    let open = || RedbStore::open(directory.path().to_path_buf());
    let store = open().await.unwrap();
    let revision = committed(&store, vec![put("a", "1")]).await;
    assert!(matches!(open().await, Err(MetaError::InUse { .. })));
    drop(store);
    let store = open().await.unwrap();
    assert_eq!(*store.revisions().borrow(), revision);
    assert_eq!(value(&store, "a").await, Some("1".to_owned()));
    let events = store.events(Revision(0), 10).await.unwrap();
    assert!(matches!(events, Events::Read { list, .. } if list.len() == 1));
}
