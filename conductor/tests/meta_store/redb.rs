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

/// The rows have secrets, and an ordinary umask lets all read what is made.
#[tokio::test]
async fn only_its_owner_reads_the_file() {
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("new");
    let file = at.join("metadata.redb");
    let mode = |path: &std::path::Path| metadata(path).unwrap().permissions().mode() & 0o777;
    drop(RedbStore::open(at.clone()).await.unwrap());
    assert_eq!((mode(&at), mode(&file)), (0o700, 0o600));
    // As an older version has made it.
    set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    drop(RedbStore::open(at.clone()).await.unwrap());
    assert_eq!(mode(&file), 0o600);
}
