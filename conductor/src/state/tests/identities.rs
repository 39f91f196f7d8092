//! Who may join: tokens once and in time, and nobody who is denied.

use ashlar_proto::api::{CreateJoinToken, DenyIdentity, IdentitySubject, NodeRole};

use super::*;
use crate::refusal::IdentityRefusal;
use crate::state::TokenUse;

const NOW: u64 = 1_000_000;
const HOUR: u64 = 3_600_000;

fn create(name: Option<&str>) -> CreateJoinToken {
    CreateJoinToken {
        role: NodeRole::Store,
        name: name.map(str::to_owned),
        ttl_ms: HOUR,
    }
}

fn shown(id: &str, name: &str, request: &str) -> TokenUse {
    TokenUse {
        id: id.to_owned(),
        hash: format!("hash of {id}"),
        name: name.to_owned(),
        request: request.to_owned(),
    }
}

fn with_token(id: &str, name: Option<&str>) -> Bench {
    let mut world = Bench::with(&["known"], 1);
    let hash = format!("hash of {id}");
    let plan = world.state.plan_create_token(&create(name), id, &hash, NOW);
    world.commit(plan.unwrap());
    world
}

fn refusal<T>(plan: Result<Plan<T>, Refusal>) -> IdentityRefusal {
    match plan {
        Err(Refusal::Identity(refusal)) => refusal,
        Err(other) => panic!("another refusal: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn a_token_is_good_for_one_node() {
    let mut world = with_token("t", None);
    let plan = world.state.plan_use_token(&shown("t", "x-new", "r1"), NOW);
    assert_eq!(world.commit(plan.unwrap()), NodeRole::Store);
    // The same request again: its answer may have been lost.
    let again = world
        .state
        .plan_use_token(&shown("t", "x-new", "r1"), NOW)
        .unwrap();
    assert!(again.changes.is_empty());
    for (name, request) in [("x-new", "r2"), ("y-new", "r1")] {
        let replayed = world.state.plan_use_token(&shown("t", name, request), NOW);
        assert!(matches!(
            refusal(replayed),
            IdentityRefusal::TokenUsed { .. }
        ));
    }
    assert_eq!(
        world.state.join_tokens()[0].used_by.as_deref(),
        Some("x-new")
    );
}

#[test]
fn a_token_is_good_until_it_expires() {
    let world = with_token("t", None);
    let last = world
        .state
        .plan_use_token(&shown("t", "x-new", "r"), NOW + HOUR - 1);
    assert!(last.is_ok());
    let late = world
        .state
        .plan_use_token(&shown("t", "x-new", "r"), NOW + HOUR);
    assert!(matches!(
        refusal(late),
        IdentityRefusal::TokenExpired { .. }
    ));
}

#[test]
fn expired_tokens_go_when_another_is_made() {
    let mut world = with_token("t", None);
    let plan = world
        .state
        .plan_create_token(&create(None), "u", "h", NOW + HOUR);
    world.commit(plan.unwrap());
    let ids: Vec<String> = world
        .state
        .join_tokens()
        .into_iter()
        .map(|t| t.id)
        .collect();
    assert_eq!(ids, ["u"]);
}

#[test]
fn a_wrong_secret_is_as_unknown_as_a_wrong_id() {
    let world = with_token("t", None);
    let mut wrong = shown("t", "x-new", "r");
    wrong.hash = "hash of another".to_owned();
    for shown in [wrong, shown("u", "x-new", "r")] {
        let refused = refusal(world.state.plan_use_token(&shown, NOW));
        assert_eq!(refused, IdentityRefusal::TokenUnknown);
    }
}

#[test]
fn a_token_for_a_name_is_for_no_other() {
    let world = with_token("t", Some("x-new"));
    let other = world.state.plan_use_token(&shown("t", "y-new", "r"), NOW);
    assert!(matches!(
        refusal(other),
        IdentityRefusal::TokenOfOther { .. }
    ));
    assert!(
        world
            .state
            .plan_use_token(&shown("t", "x-new", "r"), NOW)
            .is_ok()
    );
}

#[test]
fn a_token_for_no_name_is_for_no_store_that_there_is() {
    let mut world = with_token("t", None);
    let plan = world.state.plan_use_token(&shown("t", "x-new", "r"), NOW);
    world.commit(plan.unwrap());
    let registered = world
        .state
        .nodes
        .values()
        .next()
        .map(|node| node.name.clone());
    let Some(name) = registered else {
        panic!("the bench has no node");
    };
    let hash = "hash of u";
    let plan = world.state.plan_create_token(&create(None), "u", hash, NOW);
    world.commit(plan.unwrap());
    let refused = refusal(world.state.plan_use_token(&shown("u", &name, "r"), NOW));
    assert!(matches!(refused, IdentityRefusal::NameKnown { .. }));
    // What a node has used before it was registered it may use again.
    assert!(
        world
            .state
            .plan_use_token(&shown("t", "x-new", "r"), NOW)
            .is_ok()
    );
}

/// Who had such a token would get a certificate in the name of a store that runs, and speak for it.
#[test]
fn a_token_for_any_name_is_for_none_that_a_store_has() {
    let use_as = |world: &Bench, name: &str| {
        let plan = world.state.plan_use_token(&shown("t", name, "r"), NOW);
        plan.map(|plan| plan.answer)
    };
    let world = with_token("t", None);
    let refused = refusal(world.state.plan_use_token(&shown("t", "known", "r"), NOW));
    assert!(matches!(refused, IdentityRefusal::NameKnown { .. }));
    assert!(use_as(&world, "fresh").is_ok());
    let named = with_token("t", Some("known"));
    assert!(use_as(&named, "known").is_ok());
}

#[test]
fn a_revoked_token_is_unknown() {
    let mut world = with_token("t", None);
    let plan = world.state.plan_revoke_token("t").unwrap();
    world.commit(plan);
    let refused = refusal(world.state.plan_use_token(&shown("t", "x-new", "r"), NOW));
    assert_eq!(refused, IdentityRefusal::TokenUnknown);
    let again = refusal(world.state.plan_revoke_token("t"));
    assert!(matches!(again, IdentityRefusal::TokenNotFound { .. }));
}

#[test]
fn the_denied_get_no_certificate_until_they_are_allowed() {
    let mut world = with_token("t", None);
    let subject = IdentitySubject::Node("x-new".to_owned());
    let deny = DenyIdentity {
        subject: subject.clone(),
        reason: Some("stolen".to_owned()),
    };
    let before = world.state.denied_identities().revision;
    let plan = world.state.plan_deny_identity(&deny).unwrap();
    world.commit(plan);
    assert!(
        world
            .state
            .plan_deny_identity(&deny)
            .unwrap()
            .changes
            .is_empty()
    );
    let denied = world.state.denied_identities();
    assert!(denied.revision > before);
    assert_eq!(denied.items[0].reason.as_deref(), Some("stolen"));
    let refused = refusal(world.state.plan_use_token(&shown("t", "x-new", "r"), NOW));
    assert!(matches!(refused, IdentityRefusal::Denied { .. }));
    assert!(
        world
            .state
            .plan_use_token(&shown("t", "y-new", "r"), NOW)
            .is_ok()
    );
    let plan = world.state.plan_allow_identity(&subject).unwrap();
    world.commit(plan);
    assert!(world.state.denied_identities().items.is_empty());
    let again = refusal(world.state.plan_allow_identity(&subject));
    assert!(matches!(again, IdentityRefusal::NotDenied { .. }));
}

#[test]
fn what_is_no_serial_number_is_refused() {
    let world = Bench::new();
    for serial in ["", "0", "xyz", "AB", &"x-new".repeat(41)] {
        let deny = DenyIdentity {
            subject: IdentitySubject::Serial(serial.to_owned()),
            reason: None,
        };
        let refused = refusal(world.state.plan_deny_identity(&deny));
        assert!(
            matches!(refused, IdentityRefusal::Serial { .. }),
            "{serial}"
        );
    }
}
