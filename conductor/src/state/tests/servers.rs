//! iSCSI servers: their portal groups, and from whom they take a volume.

use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    AttachServer, ConfirmReservations, HandOver, PersistentReservations, RegisterServer,
    ReplaceReservations, TakeVolume,
};

use super::*;
use crate::refusal::ServerRefusal;

fn server(name: &str, run: u32) -> RegisterServer {
    RegisterServer {
        name: name.to_owned(),
        portals: vec!["10.0.0.1:3260".to_owned(), "[fd00::1]:3260".to_owned()],
        owner: owner(name, run),
    }
}

fn owner(name: &str, run: u32) -> String {
    format!("iscsi@{name} run {run}")
}

impl Bench {
    fn register(&mut self, name: &str, run: u32) -> PortalGroup {
        let plan = self.state.plan_server_register(&server(name, run));
        self.commit(plan.unwrap())
    }

    /// An attach by a run of a server, taking the volume from the generation given, asked for or not.
    fn serve(
        &mut self,
        (name, run): (&str, u32),
        group: PortalGroup,
        take: Option<(Generation, bool)>,
    ) -> Result<Generation, Refusal> {
        let take = take.map(|(generation, asked)| TakeVolume { generation, asked });
        let request = AttachRequest {
            server: Some(AttachServer { group, take }),
            force: true,
            ..by(&owner(name, run), true)
        };
        let plan = self
            .state
            .plan_attach(&self.live, self.now, "v", &request)?;
        Ok(self.commit(plan).volume.generation)
    }

    fn fall_silent(&mut self, group: PortalGroup) {
        self.commit(self.state.plan_server_silence(&[group]));
    }
}

fn is_attached(outcome: Result<Generation, Refusal>) -> bool {
    matches!(
        outcome,
        Err(Refusal::Volume(VolumeRefusal::Attached { .. }))
    )
}

#[test]
fn a_server_has_one_group_for_ever_and_no_other_has_it() {
    let mut bench = Bench::new();
    let (a, b) = (bench.register("a", 1), bench.register("b", 1));
    assert_eq!((a.get(), b.get()), (1, 2));
    assert_eq!(bench.register("a", 2), a);
    let forget = |bench: &Bench, name: &str| bench.state.plan_server_forget(name);
    let refused = forget(&bench, "b").unwrap_err();
    assert!(matches!(
        refused,
        Refusal::Server(ServerRefusal::IsUp { .. })
    ));
    bench.fall_silent(a);
    let plan = forget(&bench, "a").unwrap();
    bench.commit(plan);
    // A group of old is not given at once to another one.
    assert_eq!(bench.register("c", 1).get(), 3);
    let names: Vec<String> = bench.state.servers().into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["b", "c"]);
}

#[test]
fn portals_and_names_that_hosts_could_misread_are_refused() {
    let bench = Bench::new();
    for portal in ["", "a", "a b:1", "a,2:1", "a:1\n"] {
        let mut wrong = server("a", 1);
        wrong.portals.push(portal.to_owned());
        assert!(
            bench.state.plan_server_register(&wrong).is_err(),
            "{portal:?}"
        );
    }
    assert!(bench.state.plan_server_register(&server("A b", 1)).is_err());
}

#[test]
fn a_run_that_was_replaced_is_told_so_and_attaches_nothing() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let group = bench.register("a", 1);
    bench.register("a", 2);
    let heard = bench.state.plan_server_heard(group, &owner("a", 1), false);
    let replaced =
        |refusal: &Refusal| matches!(refusal, Refusal::Server(ServerRefusal::Replaced { .. }));
    assert!(replaced(&heard.unwrap_err()));
    assert!(replaced(&bench.serve(("a", 1), group, None).unwrap_err()));
    assert!(bench.serve(("a", 2), group, None).is_ok());
}

#[test]
fn a_server_that_is_heard_loses_a_volume_only_where_that_was_asked_for() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let (a, b) = (bench.register("a", 1), bench.register("b", 1));
    let first = bench.serve(("a", 1), a, None).unwrap();
    // Not by force either.
    assert!(is_attached(bench.serve(("b", 1), b, None)));
    assert!(is_attached(bench.serve(("b", 1), b, Some((first, false)))));
    let second = bench.serve(("b", 1), b, Some((first, true))).unwrap();
    // Who saw what was before takes nothing.
    let late = bench.serve(("a", 1), a, Some((first, true)));
    let stale = Refusal::Volume(VolumeRefusal::StaleGeneration {
        name: "v".to_owned(),
        given: first,
        current: second,
    });
    assert_eq!(late, Err(stale));
}

#[test]
fn a_volume_is_taken_from_a_server_that_is_silent_or_has_begun_anew() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let (a, b) = (bench.register("a", 1), bench.register("b", 1));
    let first = bench.serve(("a", 1), a, None).unwrap();
    bench.fall_silent(a);
    let second = bench.serve(("b", 1), b, Some((first, false))).unwrap();
    bench.register("b", 2);
    let third = bench.serve(("a", 1), a, Some((second, false)));
    // It is silent still, but it asks: the conductor hears it.
    assert!(third.is_ok());
    // Its own earlier run's volume a server has at once.
    bench.register("a", 2);
    assert!(bench.serve(("a", 2), a, None).is_ok());
}

#[test]
fn who_is_to_have_a_volume_next_is_known_until_somebody_has_it() {
    let mut bench = Bench::new();
    let id = bench.ready("v", 3);
    let (a, b) = (bench.register("a", 1), bench.register("b", 1));
    let first = bench.serve(("a", 1), a, None).unwrap();
    let request = |generation| HandOver {
        volume: id,
        generation,
        to: b,
    };
    let plan = bench.state.plan_hand_over("v", &request(first));
    bench.commit(plan.unwrap());
    let service = |bench: &Bench| bench.state.volume_by_name("v").unwrap().service;
    assert_eq!(
        (service(&bench).group, service(&bench).wanted_by),
        (Some(a), Some(b))
    );
    let plan = bench.state.plan_detach("v", &detach(id, first.get()));
    bench.commit(plan.unwrap());
    assert_eq!(
        (service(&bench).group, service(&bench).wanted_by),
        (None, Some(b))
    );
    let second = bench.serve(("b", 1), b, None).unwrap();
    assert_eq!(
        (service(&bench).group, service(&bench).wanted_by),
        (Some(b), None)
    );
    assert!(second > first);
    assert!(bench.state.plan_hand_over("v", &request(first)).is_err());
}

#[test]
fn reservations_count_as_known_once_the_owner_of_today_has_said_so() {
    let mut bench = Bench::new();
    let id = bench.ready("v", 3);
    let (a, b) = (bench.register("a", 1), bench.register("b", 1));
    let first = bench.serve(("a", 1), a, None).unwrap();
    let replace = ReplaceReservations {
        volume: id,
        seen: 0,
        reservations: PersistentReservations::default(),
    };
    let plan = bench.state.plan_reservations("v", &replace);
    let before = bench.state.map_changed("v");
    bench.commit(plan.unwrap());
    assert!(
        bench.state.map_changed("v") > before,
        "who serves it hears of them"
    );
    assert_eq!(
        bench
            .state
            .volume_by_name("v")
            .unwrap()
            .service
            .reservations,
        1
    );
    let known = |bench: &Bench| bench.state.is_confirmed(&bench.live, "v", 1).unwrap();
    let confirm = |bench: &mut Bench, generation, version| {
        let request = ConfirmReservations {
            volume: id,
            generation,
            version,
        };
        let (state, live) = (&bench.state, &mut bench.live);
        state.note_confirmed(live, "v", &request)
    };
    assert!(!known(&bench));
    confirm(&mut bench, first, 0).unwrap();
    assert!(!known(&bench));
    confirm(&mut bench, first, 1).unwrap();
    assert!(known(&bench));
    // What an owner said that was replaced is nothing.
    let second = bench.serve(("b", 1), b, Some((first, true))).unwrap();
    assert!(!known(&bench));
    assert!(confirm(&mut bench, first, 1).is_err());
    confirm(&mut bench, second, 2).unwrap();
    assert!(known(&bench));
    let plan = bench.state.plan_detach("v", &detach(id, second.get()));
    bench.commit(plan.unwrap());
    assert!(bench.state.is_confirmed(&bench.live, "v", 99).unwrap());
}
