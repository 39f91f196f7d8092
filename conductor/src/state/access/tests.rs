//! Plans for users, keys and tokens.

use super::*;
use crate::meta::Change;
use ashlar_proto::api::Revision;

struct Bench(ClusterState, u64);

impl Bench {
    fn new() -> Self {
        Self(ClusterState::empty(), 0)
    }

    fn apply<T>(&mut self, plan: Plan<T>) -> T {
        self.1 += 1;
        for change in plan.changes {
            let (key, value) = match change {
                Change::Put { key, value } => (key, Some(value)),
                Change::Delete { key } => (key, None),
            };
            let applied = self.0.apply(Revision(self.1), &key, value.as_deref());
            applied.unwrap();
        }
        plan.answer
    }

    fn user(&mut self, name: &str, role: Role) -> User {
        let request = CreateUser {
            name: name.to_owned(),
            role,
            projects: None,
        };
        let plan = self.0.plan_user_create(&request, 5000).unwrap();
        self.apply(plan)
    }

    fn key(&mut self, user: &str, id: &str) {
        let hash = HashRow {
            memory_kib: 1,
            passes: 1,
            lanes: 1,
            salt: crate::row::Hidden("00".to_owned()),
            hash: crate::row::Hidden("00".to_owned()),
        };
        let request = CreateKey::default();
        let plan = self.0.plan_key_create(user, &request, id, &hash, 5000);
        self.apply(plan.unwrap());
    }
}

fn refusal<T: std::fmt::Debug>(plan: Result<Plan<T>, Refusal>) -> AccessRefusal {
    match plan.unwrap_err() {
        Refusal::Access(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn the_last_admin_stays_while_there_are_others() {
    let mut bench = Bench::new();
    bench.user("ada", Role::Admin);
    assert!(bench.0.plan_user_delete("ada").is_ok());
    bench.user("bob", Role::Viewer);
    let user = "ada".to_owned();
    let last = AccessRefusal::LastAdmin { user };
    assert_eq!(refusal(bench.0.plan_user_delete("ada")), last);
    assert_eq!(refusal(bench.0.plan_user_deny("ada", true, 0)), last);
    let lower = SetUserRole {
        role: Role::Operator,
        projects: None,
    };
    assert_eq!(refusal(bench.0.plan_user_role("ada", &lower)), last);
    let bound = SetUserRole {
        role: Role::Admin,
        projects: Some(vec!["p".to_owned()]),
    };
    assert_eq!(refusal(bench.0.plan_user_role("ada", &bound)), last);
    bench.user("eve", Role::Admin);
    let plan = bench.0.plan_user_delete("ada").unwrap();
    // Whoever ends the other one meanwhile is in the way.
    assert_eq!(plan.reads, [user_key("eve")]);
    bench.apply(plan);
    assert!(bench.0.access().user("ada").is_none());
}

#[test]
fn the_keys_of_a_user_go_with_it() {
    let mut bench = Bench::new();
    bench.user("ada", Role::Admin);
    bench.user("bob", Role::Viewer);
    bench.key("ada", "1");
    bench.key("bob", "2");
    let plan = bench.0.plan_user_delete("bob").unwrap();
    bench.apply(plan);
    let left: Vec<String> = bench
        .0
        .api_keys(None)
        .into_iter()
        .map(|key| key.id)
        .collect();
    assert_eq!(left, ["1"]);
    let gone = bench.0.plan_key_revoke("2", 1);
    assert!(matches!(refusal(gone), AccessRefusal::NoKey { .. }));
}

#[test]
fn a_user_has_a_bounded_number_of_keys_and_revoked_ones_make_room() {
    let mut bench = Bench::new();
    bench.user("ada", Role::Admin);
    for id in 0..KEYS_OF_USER_MAX {
        bench.key("ada", &format!("{id:03}"));
    }
    let hash = bench.0.access().key("000").unwrap().hash.clone();
    let one_more = |bench: &Bench| {
        let request = CreateKey::default();
        bench.0.plan_key_create("ada", &request, "new", &hash, 5000)
    };
    assert!(matches!(one_more(&bench), Err(Refusal::Invalid(_))));
    let plan = bench.0.plan_key_revoke("000", 6000).unwrap();
    let shown = bench.apply(plan);
    assert_eq!(shown.revoked_ms, Some(6000));
    assert!(one_more(&bench).is_ok());
}

#[test]
fn tokens_from_before_a_denial_stay_out_when_it_is_taken_back() {
    let mut bench = Bench::new();
    bench.user("ada", Role::Admin);
    bench.user("bob", Role::Viewer);
    assert_eq!(bench.0.access().user("bob").unwrap().tokens_since_s, 5);
    let plan = bench.0.plan_user_deny("bob", true, 9_500).unwrap();
    assert!(bench.apply(plan).denied);
    let plan = bench.0.plan_user_deny("bob", false, 0).unwrap();
    assert!(!bench.apply(plan).denied);
    assert_eq!(bench.0.access().user("bob").unwrap().tokens_since_s, 10);
}
