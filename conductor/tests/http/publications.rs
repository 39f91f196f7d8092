//! Volumes are given to nodes and taken from them, over HTTP.

use ashlar_proto::PublicationId;
use ashlar_proto::api::{AttachRequest, Attachment, Volume};
use reqwest::StatusCode;
use serde_json::json;

use super::support::{Bench, Store, problem, start};

async fn attach(
    bench: &Bench,
    owner: &str,
    publication: Option<PublicationId>,
) -> reqwest::Response {
    let request = AttachRequest {
        owner: owner.to_owned(),
        force: false,
        repair: false,
        server: None,
        publication,
    };
    bench.post("/v1/volumes/v/attach", &request).await
}

#[tokio::test]
async fn a_volume_is_published_attached_and_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let volume = bench.create("v", 3).await;
    let publish = json!({"volume": volume.id, "node": "a"});
    let published: Volume = bench.posted("/v1/volumes/v/publish", &publish).await;
    let first = published.publication.unwrap();
    assert_eq!((first.node.as_str(), first.read_only), ("a", false));
    let again: Volume = bench.posted("/v1/volumes/v/publish", &publish).await;
    assert_eq!(again.publication.as_ref(), Some(&first));

    for (body, code) in [
        (
            json!({"volume": volume.id, "node": "b"}),
            "volume-published",
        ),
        (
            json!({"volume": volume.id, "node": "a", "read_only": true}),
            "volume-published-otherwise",
        ),
        (
            json!({"volume": "00000000000000ff", "node": "a"}),
            "stale-generation",
        ),
    ] {
        let refused = bench.post("/v1/volumes/v/publish", &body).await;
        assert_eq!(problem(refused).await.code, code);
    }
    let plain = problem(attach(&bench, "plain", None).await).await;
    assert_eq!(plain.code, "volume-published");
    assert!(plain.detail.contains("node `a`"), "{}", plain.detail);
    let deleted = bench.send(reqwest::Method::DELETE, "/v1/volumes/v").await;
    assert_eq!(problem(deleted).await.code, "volume-published");

    let granted = attach(&bench, "a", Some(first.id)).await;
    let granted: Attachment = granted.json().await.unwrap();
    assert_eq!(granted.volume.publication, Some(first.clone()));

    let unpublish = json!({"volume": volume.id, "node": "a"});
    let bare: Volume = bench.posted("/v1/volumes/v/unpublish", &unpublish).await;
    assert!(bare.publication.is_none() && bare.attached_by.is_none());
    assert!(bare.generation > granted.volume.generation);
    let over = attach(&bench, "a", Some(first.id)).await;
    assert_eq!(over.status(), StatusCode::CONFLICT);
    assert_eq!(problem(over).await.code, "publication-over");

    let publish = json!({"volume": volume.id, "node": "a"});
    let published: Volume = bench.posted("/v1/volumes/v/publish", &publish).await;
    let second = published.publication.unwrap();
    assert_ne!(second.id, first.id, "the same node, another publication");
    assert_eq!(
        attach(&bench, "a", Some(first.id)).await.status(),
        StatusCode::CONFLICT
    );
    assert_eq!(
        attach(&bench, "a", Some(second.id)).await.status(),
        StatusCode::OK
    );
    let unpublish = json!({"volume": volume.id});
    let bare: Volume = bench.posted("/v1/volumes/v/unpublish", &unpublish).await;
    assert!(bare.publication.is_none());
    let again: Volume = bench.posted("/v1/volumes/v/unpublish", &unpublish).await;
    assert_eq!(again.generation, bare.generation, "once is enough");
}
