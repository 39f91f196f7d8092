//! Who may attach: repairs pass by a key and a denial only as a task of that very node.

use ashlar_proto::api::{AttachRequest, DenyClient, Role, repair_owner};

use super::*;
use crate::refusal::{AccessRefusal, ClientRefusal, IdentityRefusal};
use crate::row::Hidden;
use crate::state::Attacher;

fn by(role: Role, name: &str) -> Attacher {
    Attacher {
        who: name.to_owned(),
        role,
        is_certified: true,
        key: None,
    }
}

fn request(owner: &str, repair: bool) -> AttachRequest {
    AttachRequest {
        owner: owner.to_owned(),
        force: false,
        repair,
        server: None,
    }
}

/// A volume `v` with a key, and `nbd*` and `repair*` denied.
fn guarded() -> Bench {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let key = Some(Hidden("hash".to_owned()));
    bench.commit(bench.state.plan_volume_key("v", key).unwrap());
    for client in ["nbd*", "repair*"] {
        let deny = DenyClient {
            client: client.to_owned(),
            reason: None,
        };
        let plan = bench.state.plan_deny(&deny).unwrap();
        bench.commit(plan);
    }
    bench
}

#[test]
fn a_front_end_gets_nothing_by_saying_that_it_repairs() {
    let bench = guarded();
    for role in [Role::FrontEnd, Role::Operator] {
        let refused =
            bench
                .state
                .refuse_attacher("v", &request("nbd@host", true), &by(role, "front"));
        assert!(
            matches!(refused, Err(Refusal::Access(AccessRefusal::Role { .. }))),
            "{refused:?}"
        );
    }
    let denied =
        bench
            .state
            .refuse_attacher("v", &request("nbd@host", true), &by(Role::Admin, "local"));
    assert!(matches!(
        denied,
        Err(Refusal::Client(ClientRefusal::Denied { .. }))
    ));
}

#[test]
fn a_store_repairs_what_is_its_task_and_in_its_own_name() {
    let mut bench = guarded();
    let own = request(&repair_owner("a"), true);
    let store = by(Role::Store, "a");
    let denied = bench.state.refuse_attacher("v", &own, &store);
    assert!(matches!(denied, Err(Refusal::Client(_))), "{denied:?}");
    let node = bench.state.nodes.values().find(|node| node.name == "a");
    let repairer = node.map(|node| node.id);
    let row = bench.state.volume_named("v").unwrap().clone();
    bench.commit(Plan {
        reads: Vec::new(),
        changes: vec![AnyRow::Volume(VolumeRow { repairer, ..row }).put()],
        answer: (),
    });
    assert_eq!(bench.state.refuse_attacher("v", &own, &store), Ok(()));
    let others = request(&repair_owner("b"), true);
    let refused = bench.state.refuse_attacher("v", &others, &store);
    assert!(
        matches!(
            refused,
            Err(Refusal::Identity(IdentityRefusal::SpeaksForOther { .. }))
        ),
        "{refused:?}"
    );
}

#[test]
fn the_key_is_looked_at_with_the_row() {
    let bench = guarded();
    let owner = request("csi@host", false);
    let mut front = by(Role::FrontEnd, "front");
    let refused = bench.state.refuse_attacher("v", &owner, &front);
    assert!(matches!(
        refused,
        Err(Refusal::Access(AccessRefusal::VolumeKey { .. }))
    ));
    front.key = Some(Hidden("hash".to_owned()));
    assert_eq!(bench.state.refuse_attacher("v", &owner, &front), Ok(()));
}
