//! Clients that are denied: who is meant, what is taken from them, and who fences them.

use ashlar_proto::api::{AllowClient, DenyClient, repair_owner};

use super::*;
use crate::refusal::ClientRefusal;

const OWNER: &str = "nbd@host-a pid 7 18f";

fn deny_of(client: &str) -> DenyClient {
    DenyClient {
        client: client.to_owned(),
        reason: Some("it is stolen".to_owned()),
    }
}

impl Bench {
    fn deny(&mut self, client: &str) -> Vec<VolumeId> {
        let plan = self.state.plan_deny(&deny_of(client)).unwrap();
        let taken = self.commit(plan);
        self.heal();
        taken
    }

    fn allow(&mut self, client: &str) {
        let request = AllowClient {
            client: client.to_owned(),
        };
        let plan = self.state.plan_allow(&request).unwrap();
        self.commit(plan);
    }

    /// The node that is to repair the volume.
    fn repairer(&self, name: &str) -> Option<NodeId> {
        self.state.volume_named(name).unwrap().repairer
    }

    /// The repair owner of a node attaches the volume; gives the generation.
    fn repair(&mut self, name: &str, node: NodeId) -> u32 {
        let node = self.state.nodes[&node].name.clone();
        let request = AttachRequest {
            owner: repair_owner(&node),
            force: false,
            repair: true,
            server: None,
            publication: None,
        };
        let plan = self
            .state
            .plan_attach(&self.live, self.now, name, &request)
            .unwrap();
        self.commit(plan).volume.generation.get()
    }

    fn detach(&mut self, name: &str, generation: u32, served: bool) {
        let id = self.state.volume_named(name).unwrap().id;
        let request = DetachRequest {
            served,
            ..detach(id, generation)
        };
        let plan = self.state.plan_detach(name, &request).unwrap();
        self.commit(plan);
    }
}

#[test]
fn a_name_is_the_owner_its_first_word_or_a_beginning() {
    let cases = [
        (OWNER, true),
        ("nbd@host-a", true),
        ("nbd@host-a*", true),
        ("nbd@*", true),
        ("*", true),
        ("nbd@host", false),
        ("nbd@host-a pid", false),
        ("nbd@host-ab*", false),
        ("host-a", false),
        ("", false),
    ];
    for (client, expected) in cases {
        let mut bench = Bench::new();
        if client.is_empty() {
            assert!(bench.state.plan_deny(&deny_of(client)).is_err());
            continue;
        }
        bench.deny(client);
        let refused = bench.state.refuse_denied(OWNER, None).is_err();
        assert_eq!(refused, expected, "{client}");
    }
}

#[test]
fn a_denied_client_attaches_nothing_until_it_is_allowed() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    assert_eq!(bench.deny("nbd@host-a"), []);
    let refused = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by(OWNER, true))
        .unwrap_err();
    let text = refused.to_string();
    assert!(matches!(
        refused,
        Refusal::Client(ClientRefusal::Denied { .. })
    ));
    assert!(
        text.contains("it is stolen") && text.contains("ashlar client allow 'nbd@host-a'"),
        "{text}"
    );
    assert!(
        bench
            .state
            .plan_attach(&bench.live, bench.now, "v", &by("nbd@host-b", false))
            .is_ok()
    );
    let again = bench.state.plan_deny(&deny_of("nbd@host-a")).unwrap();
    assert!(again.changes.is_empty());
    bench.state = read_back(&bench.state);
    assert_eq!(bench.state.denied().len(), 1);
    assert!(
        bench
            .state
            .plan_attach(&bench.live, bench.now, "v", &by(OWNER, false))
            .is_err()
    );
    bench.allow("nbd@host-a");
    assert!(
        bench
            .state
            .plan_attach(&bench.live, bench.now, "v", &by(OWNER, false))
            .is_ok()
    );
    let request = AllowClient {
        client: "nbd@host-a".to_owned(),
    };
    assert!(matches!(
        bench.state.plan_allow(&request),
        Err(Refusal::Client(ClientRefusal::NotDenied { .. }))
    ));
}

#[test]
fn what_a_denied_client_had_is_fenced_by_a_repair_owner() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.ready("w", 3);
    bench.attach("v", OWNER);
    bench.attach("w", "nbd@host-b");
    let id = bench.state.volume_named("v").unwrap().id;
    assert_eq!(bench.deny("nbd@host-a"), [id]);
    assert_eq!(bench.state.unfenced(), ["v"]);
    assert!(bench.state.volume_named("w").unwrap().attached_by.is_some());
    // Its next proposal is of a generation that is over.
    let epoch = bench.state.volume_by_name("v").unwrap().shards[0].epoch;
    let proposal = ProposeInSync {
        generation: Generation::new(1),
        ..bench.propose("v", 0, epoch.get(), &[0, 1])
    };
    let refused = bench.state.plan_in_sync("v", &proposal).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Volume(VolumeRefusal::StaleGeneration { .. })
    ));
    // Nothing is amiss, and yet a store attaches it.
    let node = bench.repairer("v").expect("a node has the task");
    assert!(bench.state.repairs(node)[0].fence);
    // An attach that came to nothing fences nobody.
    let generation = bench.repair("v", node);
    bench.detach("v", generation, false);
    bench.heal();
    assert_eq!(bench.state.unfenced(), ["v"]);
    let node = bench.repairer("v").expect("it goes on");
    let generation = bench.repair("v", node);
    assert!(generation > 2);
    let before = bench.state.assigned(node).unwrap();
    bench.detach("v", generation, true);
    assert!(bench.state.unfenced().is_empty());
    assert!(bench.state.assigned(node).unwrap() > before);
    bench.heal();
    assert_eq!(bench.repairer("v"), None);
    assert!(bench.state.repairs(node).is_empty());
}

#[test]
fn a_user_that_takes_the_volume_fences_as_well() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", OWNER);
    bench.deny("nbd@*");
    let plan = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by("qemu@host-b", false));
    let generation = bench.commit(plan.unwrap()).volume.generation.get();
    bench.heal();
    // It need not have come to serve.
    assert_eq!(bench.state.unfenced(), ["v"]);
    assert_eq!(bench.repairer("v"), None);
    bench.detach("v", generation, true);
    assert!(bench.state.unfenced().is_empty());
}

#[test]
fn repair_owners_are_not_denied() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", OWNER);
    bench.deny("*");
    let node = bench.repairer("v").unwrap();
    bench.repair("v", node);
    let repaired = bench.state.volume_named("v").unwrap();
    assert!(repaired.attached_for_repair);
    // And nothing is taken from them.
    assert_eq!(bench.deny("repair@*"), []);
}
