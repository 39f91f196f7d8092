//! Each route has its rule, and no rule is without a route.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::access::caller::Means;

fn caller(role: Role, projects: Option<&[&str]>) -> Caller {
    Caller {
        name: "ada".to_owned(),
        means: Means::Key("1".to_owned()),
        role,
        projects: projects.map(|list| list.iter().map(|name| (*name).to_owned()).collect()),
    }
}

/// The routes that the API tells of: method and path.
fn routed() -> BTreeSet<(String, String)> {
    let routes = crate::http::routes_told::<crate::meta::redb_store::RedbStore>();
    routes.into_iter().collect()
}

#[test]
fn every_route_is_in_the_table_and_the_table_has_no_other() {
    let routed = routed();
    let pair = |rule: &Rule| (rule.method.to_owned(), rule.path.to_owned());
    let listed: BTreeSet<_> = RULES.iter().map(pair).collect();
    assert_eq!(listed.len(), RULES.len(), "a route is there twice");
    let missing: Vec<_> = routed.difference(&listed).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    let gone: Vec<_> = listed.difference(&routed).collect();
    assert!(gone.is_empty(), "no routes: {gone:?}");
    assert!(routed.len() > 80, "{} routes were found", routed.len());
}

#[test]
fn rules_about_volumes_are_of_routes_that_name_one() {
    for rule in RULES {
        let names_one = rule.path.starts_with("/v1/volumes/{name}");
        let is_about_one = matches!(rule.about, Volume | VolumeAndNamed);
        assert_eq!(names_one, is_about_one, "{} {}", rule.method, rule.path);
    }
}

#[test]
fn what_is_not_in_the_table_takes_an_admin_of_all() {
    let unlisted = rule("PATCH", "/v1/volumes/{name}");
    assert!(permit(&caller(Role::Admin, None), &unlisted, None, None).is_ok());
    for other in [
        caller(Role::Operator, None),
        caller(Role::Store, None),
        caller(Role::Admin, Some(&["p"])),
    ] {
        assert!(permit(&other, &unlisted, None, None).is_err());
    }
    assert_eq!(rule("HEAD", "/v1/volumes").need, View);
}

/// Those that change nothing, or only what is of who asks.
const OF_ANYBODY: [&str; 4] = ["/v1/maps", "/v1/tokens", "/v1/enrol", "/v1/enrol/renew"];

#[test]
fn viewers_change_nothing_and_only_admins_say_who_may_what() {
    for rule in RULES {
        let is_met = |role| rule.need.is_met_by(role);
        let word = format!("{} {}", rule.method, rule.path);
        if rule.method != "GET" && !OF_ANYBODY.contains(&rule.path) {
            assert!(!is_met(Role::Viewer), "{word}");
        }
        let is_about_access = ["/v1/users", "/v1/keys", "/v1/audit", "/v1/tokens/"];
        if is_about_access
            .iter()
            .any(|start| rule.path.starts_with(start))
        {
            assert_eq!(rule.need, Administer, "{word}");
        }
        assert!(is_met(Role::Admin), "{word}");
        if rule.need == FrontEnd {
            assert!(!is_met(Role::Store) && !is_met(Role::Operator), "{word}");
        }
    }
    // Only who checks them is told the secrets of CHAP.
    assert_eq!(rule("GET", "/v1/iscsi/targets").need, FrontEnd);
}

#[test]
fn who_is_bound_to_projects_reaches_no_other_and_nothing_of_the_cluster() {
    let bound = caller(Role::Operator, Some(&["p", "default"]));
    let may = |method: &str, path: &str, volume: Option<&str>, body: Option<Value>| {
        permit(&bound, &rule(method, path), volume, body.as_ref()).is_ok()
    };
    let (volumes, one) = ("/v1/volumes", "/v1/volumes/{name}");
    assert!(may("GET", one, Some("p/a"), None) && may("DELETE", one, Some("a"), None));
    assert!(may("GET", one, Some("default/p/a"), None));
    assert!(!may("GET", one, Some("q/a"), None) && !may("GET", one, Some("default/q/a"), None));
    assert!(!may("GET", one, None, None));
    assert!(may("POST", volumes, None, Some(json!({"name": "p/a"}))));
    assert!(!may("POST", volumes, None, Some(json!({"name": "q/a"}))));
    let clone = "/v1/volumes/{name}/snapshots/{snapshot}/clone";
    assert!(!may(
        "POST",
        clone,
        Some("p/a"),
        Some(json!({"name": "q/a"}))
    ));
    assert!(!may(
        "POST",
        clone,
        Some("q/a"),
        Some(json!({"name": "p/a"}))
    ));
    let group = json!({"name": "q", "volumes": ["p/a", "q/b"]});
    assert!(!may("POST", "/v1/snapshot-groups", None, Some(group)));
    let maps = |name: &str| json!({"volumes": [{"name": "p/a"}, {"name": name}]});
    assert!(may("POST", "/v1/maps", None, Some(maps("b"))));
    assert!(!may("POST", "/v1/maps", None, Some(maps("q/b"))));
    // What cannot be read, or is read by the handler in another way, names no project of its own.
    assert!(!may("POST", volumes, None, None));
    for body in [
        json!({}),
        json!({"name": 1}),
        json!(["q/a", 4096, 1]),
        json!(null),
    ] {
        assert!(!may("POST", volumes, None, Some(body.clone())), "{body}");
        assert!(
            permit(
                &caller(Role::Operator, None),
                &rule("POST", volumes),
                None,
                Some(&body)
            )
            .is_ok()
        );
    }
    let maps = |list: Value| may("POST", "/v1/maps", None, Some(json!({"volumes": list})));
    assert!(!maps(json!([["q/b", 0]])) && !maps(json!("q/b")) && !maps(json!([{"after": 0}])));
    assert!(!may("GET", "/v1/nodes", None, None));
    assert!(!may(
        "POST",
        "/v1/targets",
        None,
        Some(json!({"name": "p"}))
    ));
    assert!(may("GET", volumes, None, None));
}
