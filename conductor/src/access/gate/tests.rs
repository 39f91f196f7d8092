//! Who is let in by what, and who is slowed down.

use std::sync::RwLock;

use ashlar_proto::api::{CreateKey, CreateUser, Revision};

use super::*;
use crate::access::keys::FreshKey;
use crate::access::tokens::Claims;
use crate::meta::Change;
use crate::row::SigningKeyRow;
use crate::state::Plan;

/// A state with a user `ada`, its key, and a key to sign with.
struct Bench {
    state: RwLock<ClusterState>,
    key: FreshKey,
    signing: SigningKeyRow,
}

impl Known for Bench {
    fn look<T>(&self, look: impl FnOnce(&ClusterState) -> T) -> T {
        look(&self.state.read().unwrap())
    }
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            state: RwLock::new(ClusterState::empty()),
            key: keys::generate().unwrap(),
            signing: tokens::fresh_key(now_ms()).unwrap(),
        };
        let user = CreateUser {
            name: "ada".to_owned(),
            role: Role::Operator,
            projects: Some(vec!["p".to_owned()]),
        };
        bench.apply(|state| state.plan_user_create(&user, 1).unwrap());
        let (key, request) = (&bench.key, CreateKey::default());
        bench.apply(|state| {
            let plan = state.plan_key_create("ada", &request, &key.id, &key.hash, 1);
            plan.unwrap()
        });
        bench.apply(|state| state.plan_rotate(&bench.signing, false));
        bench
    }

    fn apply<T>(&self, plan: impl FnOnce(&ClusterState) -> Plan<T>) {
        let mut state = self.state.write().unwrap();
        let revision = Revision(state.revision().0 + 1);
        for change in plan(&state).changes {
            let (key, value) = match change {
                Change::Put { key, value } => (key, Some(value)),
                Change::Delete { key } => (key, None),
            };
            state.apply(revision, &key, value.as_deref()).unwrap();
        }
    }

    fn token(&self) -> (String, String) {
        let cluster = self.look(ClusterState::cluster);
        let now = now_ms() / 1000;
        let claims = Claims::new(cluster, "ada", None, now, 60).unwrap();
        let token = tokens::sign(&self.signing, &claims).unwrap();
        (token, claims.jti)
    }

    /// A token that was made with the key.
    fn token_by_key(&self) -> String {
        let (cluster, key) =
            self.look(|state| (state.cluster(), state.access().key(&self.key.id).cloned()));
        let now = now_ms() / 1000;
        let claims = Claims::new(cluster, "ada", key.as_ref(), now, 60).unwrap();
        tokens::sign(&self.signing, &claims).unwrap()
    }

    /// What is no key of anybody, but has the id of one.
    fn guess(&self) -> String {
        format!("ashlar_{}_{}", self.key.id, "0".repeat(64))
    }
}

fn gate(mode: AuthMode) -> Gate {
    Gate::new(&AccessOptions {
        mode,
        process_secret: Some(Secret::new("of this process")),
        ..AccessOptions::default()
    })
}

fn from(address: &str) -> Peer {
    Peer {
        address: Some(format!("{address}:1").parse().unwrap()),
        certificate: None,
    }
}

async fn admit(
    gate: &Gate,
    bench: &Bench,
    from: &Peer,
    token: Option<&str>,
) -> Result<Caller, AccessRefusal> {
    let value = token.map(|token| format!("Bearer {token}").parse::<HeaderValue>().unwrap());
    gate.admit(bench, from, value.as_ref()).await
}

#[tokio::test]
async fn who_shows_nothing_is_let_in_where_the_mode_says_so() {
    let (bench, near, far) = (Bench::new(), from("127.0.0.1"), from("10.0.0.1"));
    let mapped = from("[::ffff:127.0.0.1]");
    for (mode, peer, is_in) in [
        (AuthMode::Required, &near, false),
        (AuthMode::LoopbackFree, &near, true),
        (AuthMode::LoopbackFree, &mapped, true),
        (AuthMode::LoopbackFree, &far, false),
        (AuthMode::LoopbackFree, &Peer::default(), false),
        (AuthMode::Off, &far, true),
    ] {
        let admitted = admit(&gate(mode), &bench, peer, None).await;
        assert_eq!(admitted.is_ok(), is_in, "{mode:?} {peer:?}");
    }
    let node = Peer {
        certificate: Some(Caller::node("store-1".to_owned(), Role::Store)),
        ..far
    };
    let admitted = admit(&gate(AuthMode::Required), &bench, &node, None).await;
    assert_eq!(admitted.unwrap().role, Role::Store);
    let strict = gate(AuthMode::Required);
    let own = admit(&strict, &bench, &near, Some("of this process"));
    assert_eq!(own.await.unwrap().means, Means::Process);
}

#[tokio::test]
async fn a_wrong_credential_is_refused_also_where_none_is_needed() {
    let (bench, near) = (Bench::new(), from("127.0.0.1"));
    let gate = gate(AuthMode::LoopbackFree);
    for wrong in ["", "x", "ashlar_x", "a.b.c", &"x".repeat(9000)] {
        let refused = admit(&gate, &bench, &near, Some(wrong)).await.unwrap_err();
        assert_eq!(refused, AccessRefusal::Wrong, "{wrong}");
    }
    let basic = HeaderValue::from_static("Basic YWRhOmFkYQ==");
    let refused = gate.admit(&bench, &near, Some(&basic)).await.unwrap_err();
    assert_eq!(refused, AccessRefusal::Wrong);
}

#[tokio::test]
async fn a_key_lets_its_user_in_until_it_is_revoked() {
    let (bench, far) = (Bench::new(), from("10.0.0.1"));
    let gate = gate(AuthMode::Required);
    let key = bench.key.secret.reveal();
    for _ in 0..3 {
        let caller = admit(&gate, &bench, &far, Some(key)).await.unwrap();
        assert_eq!((caller.name.as_str(), caller.role), ("ada", Role::Operator));
        assert!(caller.sees("p/a") && !caller.sees("q/a") && !caller.sees("a"));
    }
    assert_eq!(gate.hashing.verified(), 1);
    bench.apply(|state| state.plan_key_revoke(&bench.key.id, 2).unwrap());
    let refused = admit(&gate, &bench, &far, Some(key)).await.unwrap_err();
    assert_eq!(refused, AccessRefusal::Revoked);
}

#[tokio::test]
async fn a_denied_user_is_not_let_in_by_key_or_token() {
    let (bench, far) = (Bench::new(), from("10.0.0.1"));
    let gate = gate(AuthMode::Required);
    let (key, (token, _)) = (bench.key.secret.reveal(), bench.token());
    assert!(admit(&gate, &bench, &far, Some(&token)).await.is_ok());
    bench.apply(|state| state.plan_user_deny("ada", true, now_ms()).unwrap());
    for credential in [key, &token] {
        let refused = admit(&gate, &bench, &far, Some(credential))
            .await
            .unwrap_err();
        assert!(
            matches!(refused, AccessRefusal::UserDenied { .. }),
            "{refused}"
        );
    }
    bench.apply(|state| state.plan_user_deny("ada", false, 0).unwrap());
    assert!(admit(&gate, &bench, &far, Some(key)).await.is_ok());
    let refused = admit(&gate, &bench, &far, Some(&token)).await.unwrap_err();
    assert_eq!(refused, AccessRefusal::Revoked);
}

#[tokio::test]
async fn a_token_is_let_in_until_it_or_its_key_or_its_user_is_gone() {
    let (bench, far) = (Bench::new(), from("10.0.0.1"));
    let gate = gate(AuthMode::Required);
    let (token, id) = bench.token();
    let caller = admit(&gate, &bench, &far, Some(&token)).await.unwrap();
    assert_eq!(caller.means, Means::Token(id.clone()));
    bench.apply(|state| state.plan_token_revoke(&id, now_ms()).unwrap());
    let refused = admit(&gate, &bench, &far, Some(&token)).await.unwrap_err();
    assert_eq!(refused, AccessRefusal::Revoked);
    let (other, _) = bench.token();
    assert!(admit(&gate, &bench, &far, Some(&other)).await.is_ok());
    bench.apply(|state| state.plan_user_delete("ada").unwrap());
    let refused = admit(&gate, &bench, &far, Some(&other)).await.unwrap_err();
    assert_eq!(refused, AccessRefusal::Revoked);
    let fresh = tokens::fresh_key(now_ms()).unwrap();
    bench.apply(|state| state.plan_rotate(&fresh, true));
    let refused = admit(&gate, &bench, &far, Some(&other)).await.unwrap_err();
    assert_eq!(refused, AccessRefusal::Wrong);
}

#[tokio::test]
async fn who_guesses_keys_is_stopped_and_others_are_not() {
    let (bench, bad, good) = (Bench::new(), from("10.0.0.1"), from("10.0.0.2"));
    let gate = gate(AuthMode::Required);
    let guess = bench.guess();
    let mut stopped = false;
    // What is refused at no cost counts for the address too, faster than it is forgiven.
    for _ in 0..100 {
        for _ in 0..20 {
            let refused = admit(&gate, &bench, &bad, Some("x")).await.unwrap_err();
            assert_eq!(refused, AccessRefusal::Wrong);
        }
        match admit(&gate, &bench, &bad, Some(&guess)).await.unwrap_err() {
            AccessRefusal::Wrong => {}
            AccessRefusal::TooOften { .. } => {
                stopped = true;
                break;
            }
            other => panic!("{other}"),
        }
    }
    assert!(stopped);
    let key = bench.key.secret.reveal();
    assert!(admit(&gate, &bench, &good, Some(key)).await.is_ok());
    // What was hashed once needs no more of that, wherever it comes from.
    assert!(admit(&gate, &bench, &bad, Some(key)).await.is_ok());
}

#[tokio::test]
async fn what_is_no_credential_at_all_keeps_nobody_else_out() {
    let (bench, bad, good) = (Bench::new(), from("10.0.0.1"), from("10.0.0.2"));
    let gate = gate(AuthMode::Required);
    let unknown = format!("ashlar_{}_{}", "0".repeat(16), "0".repeat(64));
    for wrong in ["x", "a.b.c", "ashlar_x", &unknown] {
        for _ in 0..1000 {
            let refused = admit(&gate, &bench, &bad, Some(wrong)).await.unwrap_err();
            assert_eq!(refused, AccessRefusal::Wrong);
        }
    }
    let key = bench.key.secret.reveal();
    assert!(admit(&gate, &bench, &good, Some(key)).await.is_ok());
}

/// A client that closes its connection has its request dropped, while the hash goes on being computed: it
/// must neither give the turn back nor be free of charge.
#[test]
fn who_goes_away_pays_and_keeps_the_turn_until_the_hash_is_done() {
    let (bench, bad) = (Bench::new(), from("10.0.0.1"));
    let (gate, guess) = (gate(AuthMode::Required), bench.guess());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        // The only thread that could hash waits until it is told to go on.
        let (go_on, told) = std::sync::mpsc::channel();
        let waits = tokio::task::spawn_blocking(move || told.recv());
        let mut asked = Box::pin(admit(&gate, &bench, &bad, Some(&guess)));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        drop(asked);
        assert!(gate.hashing.is_busy() && gate.hashing.has_charged(bad.ip()));
        go_on.send(()).unwrap();
        waits.await.unwrap().unwrap();
        while gate.hashing.is_busy() {
            tokio::task::yield_now().await;
        }
    });
    assert!(gate.hashing.has_charged(bad.ip()));
}

#[tokio::test]
async fn a_token_ends_with_the_key_that_made_it() {
    let (bench, far) = (Bench::new(), from("10.0.0.1"));
    let gate = gate(AuthMode::Required);
    let (token, other) = (bench.token_by_key(), bench.token().0);
    assert!(admit(&gate, &bench, &far, Some(&token)).await.is_ok());
    bench.apply(|state| state.plan_key_revoke(&bench.key.id, 2).unwrap());
    let refused = admit(&gate, &bench, &far, Some(&token)).await.unwrap_err();
    assert_eq!(refused, AccessRefusal::Revoked);
    assert!(admit(&gate, &bench, &far, Some(&other)).await.is_ok());
}

#[test]
fn tokens_of_others_from_before_a_denial_stay_out_when_it_is_taken_back() {
    let bench = Bench::new();
    let user = |bench: &Bench| bench.look(|state| state.access().user("ada").cloned().unwrap());
    assert!(outlasts_denial(&user(&bench), None) && outlasts_denial(&user(&bench), Some(0.5)));
    bench.apply(|state| state.plan_user_deny("ada", true, 5_000_000).unwrap());
    bench.apply(|state| state.plan_user_deny("ada", false, 6_000_000).unwrap());
    let user = user(&bench);
    assert!(!user.denied);
    for old in [None, Some(4999.0), Some(5000.5)] {
        assert!(!outlasts_denial(&user, old), "{old:?}");
    }
    assert!(outlasts_denial(&user, Some(5001.0)));
}
