//! iSCSI servers that say that they are there, and which of them serves a volume, over HTTP.

use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    AttachRequest, AttachServer, Attachment, IscsiServer, List, ReservationsConfirmed,
    ServerRegistered, TakeVolume,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::support::{Bench, Store, problem, start};

const SERVERS: &str = "/v1/iscsi/servers";

async fn register(bench: &Bench, name: &str, owner: &str) -> PortalGroup {
    let body = json!({"name": name, "portals": ["192.0.2.1:3260"], "owner": owner});
    let registered: ServerRegistered = bench.posted(SERVERS, &body).await;
    registered.group
}

fn attach(owner: &str, group: PortalGroup, take: Option<TakeVolume>) -> AttachRequest {
    AttachRequest {
        owner: owner.to_owned(),
        force: false,
        repair: false,
        server: Some(AttachServer { group, take }),
        publication: None,
    }
}

const ATTACH: &str = "/v1/volumes/v/attach";

async fn attached(bench: &Bench, request: &AttachRequest) -> Attachment {
    bench.posted(ATTACH, request).await
}

async fn code(bench: &Bench, path: &str, body: &Value) -> (StatusCode, String) {
    let answer = bench.post(path, body).await;
    let status = answer.status();
    (status, problem(answer).await.code)
}

fn beat_path(group: PortalGroup) -> String {
    format!("{SERVERS}/{group}/heartbeat")
}

#[tokio::test]
async fn a_server_keeps_its_group_over_its_runs_and_a_replaced_run_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let first = register(&bench, "a", "a-1").await;
    let second = register(&bench, "b", "b-1").await;
    assert_ne!(first, second);
    assert_eq!(register(&bench, "a", "a-2").await, first);
    let listed: List<IscsiServer> = bench.get(SERVERS).await;
    let runs: Vec<_> = listed.items.iter().map(|server| &server.owner).collect();
    assert_eq!(runs, ["a-2", "b-1"]);

    let old = code(&bench, &beat_path(first), &json!({"owner": "a-1"})).await;
    assert_eq!(old, (StatusCode::CONFLICT, "server-replaced".to_owned()));
    let alive = json!({"owner": "a-2"});
    let heard = bench.post(&beat_path(first), &alive).await;
    assert_eq!(heard.status(), StatusCode::NO_CONTENT);
    let none = PortalGroup::new(999).unwrap();
    let unknown = code(&bench, &beat_path(none), &alive).await;
    assert_eq!(
        unknown,
        (StatusCode::NOT_FOUND, "server-not-found".to_owned())
    );

    let path = format!("{SERVERS}/a");
    let refused = bench.send(Method::DELETE, &path).await;
    assert_eq!(problem(refused).await.code, "server-up");
    let leaving = json!({"owner": "a-2", "leaving": true});
    let left = bench.post(&beat_path(first), &leaving).await;
    assert_eq!(left.status(), StatusCode::NO_CONTENT);
    let forgotten = bench.send(Method::DELETE, &path).await;
    assert_eq!(forgotten.status(), StatusCode::NO_CONTENT);
    let again = bench.send(Method::DELETE, &path).await;
    assert_eq!(problem(again).await.code, "server-not-found");
}

#[tokio::test]
async fn registrations_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    for body in [
        json!({"name": "A b", "portals": [], "owner": "x"}),
        json!({"name": "a", "portals": ["no port"], "owner": "x"}),
        json!({"name": "a", "portals": ["h:1\nTargetName=x"], "owner": "x"}),
        json!({"name": "a", "portals": vec!["h:1"; 1000], "owner": "x"}),
        json!({"name": "a", "portals": ["h:1"]}),
        json!({"name": "a", "portals": ["h:1"], "owner": "x", "more": 1}),
    ] {
        let (status, _) = code(&bench, SERVERS, &body).await;
        assert!(status.is_client_error(), "{body}");
    }
    let listed: List<IscsiServer> = bench.get(SERVERS).await;
    assert!(listed.items.is_empty());
}

#[tokio::test]
async fn a_volume_is_taken_from_a_server_that_is_heard_only_when_somebody_asks() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("v", 3).await;
    let first = register(&bench, "a", "a-1").await;
    let second = register(&bench, "b", "b-1").await;
    let path = ATTACH;
    let grant = attached(&bench, &attach("a-1", first, None)).await;
    assert_eq!(grant.volume.service.group, Some(first));

    let refused = bench.post(path, &attach("b-1", second, None)).await;
    assert_eq!(problem(refused).await.code, "volume-attached");
    let generation = grant.volume.generation;
    let take = |asked| Some(TakeVolume { generation, asked });
    let refused = bench.post(path, &attach("b-1", second, take(false))).await;
    assert_eq!(problem(refused).await.code, "volume-attached");
    let taken = attached(&bench, &attach("b-1", second, take(true))).await;
    assert_eq!(taken.volume.service.group, Some(second));
    assert!(taken.volume.generation > generation);
    // The first one asks for what it lost, by the generation that it knew.
    let late = bench.post(path, &attach("a-1", first, take(true))).await;
    assert_eq!(problem(late).await.code, "stale-generation");
    // A run that another has taken the place of attaches nothing.
    register(&bench, "a", "a-2").await;
    let old = bench.post(path, &attach("a-1", first, None)).await;
    assert_eq!(problem(old).await.code, "server-replaced");
}

#[tokio::test]
async fn a_hand_over_names_a_server_and_the_generation_that_is_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("v", 3).await;
    let first = register(&bench, "a", "a-1").await;
    let second = register(&bench, "b", "b-1").await;
    let grant = attached(&bench, &attach("a-1", first, None)).await;
    let path = "/v1/volumes/v/hand-over";
    let generation = grant.volume.generation.get();
    let body = |generation: u32, to: u16| json!({"volume": grant.volume.id, "generation": generation, "to": to});

    let stale = code(&bench, path, &body(generation + 1, second.get())).await;
    assert_eq!(stale.1, "stale-generation");
    let nobody = code(&bench, path, &body(generation, 99)).await;
    assert_eq!(nobody.1, "server-not-found");
    assert_eq!(bench.volume("v").await.service.wanted_by, None);
    let told = bench.post(path, &body(generation, second.get())).await;
    assert_eq!(told.status(), StatusCode::NO_CONTENT);
    assert_eq!(bench.volume("v").await.service.wanted_by, Some(second));
    // Who attaches it next has it; nobody is to hand it over any more.
    let take = Some(TakeVolume {
        generation: grant.volume.generation,
        asked: true,
    });
    let taken = attached(&bench, &attach("b-1", second, take)).await;
    assert_eq!(taken.volume.service.wanted_by, None);
}

#[tokio::test]
async fn who_waits_for_reservations_hears_when_the_server_goes_by_them() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let volume = bench.create("v", 3).await;
    let first = register(&bench, "a", "a-1").await;
    let asked = |version: u64, wait_ms: u64| {
        let path = "/v1/volumes/v/reservations/confirmed";
        format!("{path}?version={version}&wait_ms={wait_ms}")
    };
    // Nobody serves it: nobody goes by anything older.
    let told: ReservationsConfirmed = bench.get(&asked(5, 0)).await;
    assert!(told.confirmed);
    let grant = attached(&bench, &attach("a-1", first, None)).await;
    let told: ReservationsConfirmed = bench.get(&asked(5, 50)).await;
    assert!(!told.confirmed);

    let path = "/v1/volumes/v/reservations/confirm";
    let generation = grant.volume.generation.get();
    let body = |generation: u32, version: u64| json!({"volume": volume.id, "generation": generation, "version": version});
    let stale = code(&bench, path, &body(generation - 1, 5)).await;
    assert_eq!(stale.1, "stale-generation");
    let wait = asked(5, 20_000);
    let (told, said) = tokio::join!(bench.get::<ReservationsConfirmed>(&wait), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        bench.post(path, &body(generation, 5)).await
    });
    assert_eq!(said.status(), StatusCode::NO_CONTENT);
    assert!(told.confirmed);
    let told: ReservationsConfirmed = bench.get(&asked(6, 0)).await;
    assert!(
        !told.confirmed,
        "a later version is not confirmed by an earlier one"
    );
}
