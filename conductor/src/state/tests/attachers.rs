//! Who may attach: repairs pass by a key and a denial only as a task of that very node.

use ashlar_proto::api::{
    AttachRequest, DenyClient, DenyIdentity, IdentitySubject, Role, repair_owner,
};

use super::*;
use crate::refusal::{AccessRefusal, ClientRefusal, IdentityRefusal};
use crate::row::{AttachedAs, Hidden};
use crate::state::Attacher;

fn by(role: Role, name: &str) -> Attacher {
    Attacher {
        who: name.to_owned(),
        role,
        is_certified: true,
        shown: None,
        key: None,
    }
}

fn request(owner: &str, repair: bool) -> AttachRequest {
    AttachRequest {
        owner: owner.to_owned(),
        force: false,
        repair,
        server: None,
        publication: None,
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

/// A front end that shows the certificate of a node, or a user's key.
fn shown_as(node: Option<&str>, user: Option<&str>) -> Attacher {
    Attacher {
        shown: Some(AttachedAs {
            node: node.map(str::to_owned),
            serial: node.map(|_| "ab12".to_owned()),
            user: user.map(str::to_owned),
        }),
        ..by(Role::FrontEnd, "front")
    }
}

fn attach_by(bench: &mut Bench, name: &str, owner: &str, by: &Attacher) -> Result<u32, Refusal> {
    let request = request(owner, false);
    let (live, now) = (&bench.live, bench.now);
    let plan = bench.state.plan_attach_by(live, now, name, &request, by)?;
    Ok(bench.commit(plan).volume.generation.get())
}

fn deny(bench: &mut Bench, subject: IdentitySubject) -> Vec<VolumeId> {
    let request = DenyIdentity {
        subject,
        reason: None,
    };
    let plan = bench.state.plan_deny_identity(&request).unwrap();
    bench.commit(plan)
}

/// A front end said `x` of itself where its denial was written for `nbd@host`: it attached again between
/// `client deny` and `node deny`, and kept what it had.
#[test]
fn a_denied_node_loses_what_it_attached_under_whatever_name() {
    for subject in [
        IdentitySubject::Node("front-1".to_owned()),
        IdentitySubject::Serial("ab12".to_owned()),
    ] {
        let mut bench = Bench::new();
        let front = shown_as(Some("front-1"), None);
        let other = Attacher {
            shown: None,
            ..front.clone()
        };
        for name in ["v", "w"] {
            bench.ready(name, 3);
        }
        let generation = attach_by(&mut bench, "v", "x", &front).unwrap();
        attach_by(&mut bench, "w", "x", &other).unwrap();
        let taken = deny(&mut bench, subject.clone());
        let row = bench.state.volume_named("v").unwrap().clone();
        assert_eq!(taken, [row.id]);
        assert_eq!(row.generation.get(), generation + 1);
        assert_eq!((row.attached_by, row.attached_as), (None, None));
        assert_eq!(
            bench.state.unfenced(),
            ["v"],
            "until somebody has fenced it"
        );
        assert!(bench.state.volume_named("w").unwrap().attached_by.is_some());
        // A request that was let in before the denial comes to nothing; saying it again takes nothing more.
        let refused = attach_by(&mut bench, "v", "y", &front).unwrap_err();
        assert!(
            matches!(refused, Refusal::Identity(IdentityRefusal::Denied { .. })),
            "{refused:?}"
        );
        assert!(deny(&mut bench, subject).is_empty());
        attach_by(&mut bench, "v", "y", &other).unwrap();
    }
}

#[test]
fn a_denied_store_loses_what_it_repairs_and_is_given_no_task() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let own = request(&repair_owner("a"), true);
    let store = Attacher {
        role: Role::Store,
        who: "a".to_owned(),
        ..shown_as(Some("a"), None)
    };
    let (live, now) = (&bench.live, bench.now);
    let plan = bench.state.plan_attach_by(live, now, "v", &own, &store);
    bench.commit(plan.unwrap());
    assert_eq!(
        deny(&mut bench, IdentitySubject::Node("a".to_owned())).len(),
        1
    );
    bench.heal();
    let row = bench.state.volume_named("v").unwrap();
    assert!(row.unfenced && row.attached_by.is_none());
    let repairer = row.repairer.expect("somebody has to fence it");
    assert_ne!(bench.state.nodes[&repairer].name, "a");
    let (live, now) = (&bench.live, bench.now);
    let refused = bench.state.plan_attach_by(live, now, "v", &own, &store);
    assert!(matches!(
        refused,
        Err(Refusal::Identity(IdentityRefusal::Denied { .. }))
    ));
}

#[test]
fn a_client_is_denied_by_its_node_and_by_its_user_as_well() {
    for (front, client) in [
        (shown_as(Some("front-1"), None), "front-*"),
        (shown_as(None, Some("fronts")), "fronts"),
        (shown_as(Some("front-1"), Some("fronts")), "fronts"),
    ] {
        let mut bench = Bench::new();
        bench.ready("v", 3);
        attach_by(&mut bench, "v", "x", &front).unwrap();
        let request = DenyClient {
            client: client.to_owned(),
            reason: None,
        };
        let plan = bench.state.plan_deny(&request).unwrap();
        assert_eq!(bench.commit(plan).len(), 1, "{client}");
        let refused = attach_by(&mut bench, "v", "y", &front).unwrap_err();
        assert!(
            matches!(refused, Refusal::Client(ClientRefusal::Denied { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_detached_volume_is_nobodys() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let front = shown_as(Some("front-1"), None);
    let generation = attach_by(&mut bench, "v", "x", &front).unwrap();
    let row = bench.state.volume_named("v").unwrap().clone();
    assert_eq!(row.attached_as, front.shown);
    let plan = bench.state.plan_detach("v", &detach(row.id, generation));
    bench.commit(plan.unwrap());
    assert_eq!(bench.state.volume_named("v").unwrap().attached_as, None);
    assert!(deny(&mut bench, IdentitySubject::Node("front-1".to_owned())).is_empty());
}
