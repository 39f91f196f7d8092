//! The document and the router say the same.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::described::Described;
use super::support::{Bench, Store, start};

/// What answers a request says of itself.
async fn code(bench: &Bench, method: Method, path: &str) -> String {
    let request = bench.http.request(method, bench.url(path));
    let answer = request.send().await.unwrap();
    if answer.status().is_success() {
        return String::new();
    }
    let problem: Value = answer.json().await.unwrap();
    problem["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_method_is_in_the_document_if_and_only_if_its_route_takes_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let described = Described::of(&bench.http, &bench.url("/v1/openapi.json")).await;
    let mut routes = 0;
    for (path, operations) in described.paths() {
        let named = path.split('/').map(|part| match part.starts_with('{') {
            true => "1",
            false => part,
        });
        let named: Vec<&str> = named.collect();
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            let told = operations
                .get(method.as_str().to_ascii_lowercase())
                .is_some();
            let code = code(&bench, method.clone(), &named.join("/")).await;
            assert_ne!(code, "route-not-found", "{path}");
            // What `/v1/nodes/register` does not take, `/v1/nodes/{id}` does.
            let is_word = path.ends_with("/register") && method == Method::DELETE;
            let taken = code != "method-not-allowed";
            assert!(taken == told || is_word, "{method} {path}: {code}");
            routes += usize::from(taken);
        }
    }
    assert!(routes > 70, "{routes}");
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_tells_of_every_code() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let described = Described::of(&bench.http, &bench.url("/v1/openapi.json")).await;
    let document = described.document();
    assert_eq!(document["openapi"], "3.1.0");
    let codes = document["components"]["schemas"]["ProblemCode"]["enum"].as_array();
    let codes: Vec<&str> = codes.unwrap().iter().filter_map(Value::as_str).collect();
    for code in [
        "volume-exists",
        "route-not-found",
        "idempotency-key-reused",
        "internal",
    ] {
        assert!(codes.contains(&code), "{code}");
    }
    let create = &document["paths"]["/v1/volumes"]["post"];
    let conflicts = &create["responses"]["409"]["content"]["application/problem+json"]["schema"];
    assert_eq!(
        conflicts["properties"]["code"]["enum"],
        serde_json::json!(["volume-exists", "quota-exceeded"])
    );
    let names = create["parameters"].as_array().unwrap().iter();
    let names: Vec<&str> = names.filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["wait_ms", "Idempotency-Key"]);
}

/// The validator that holds answers against the document does find what is wrong.
#[tokio::test]
#[should_panic(expected = "at /size_bytes")]
async fn an_answer_that_does_not_fit_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("a", 3).await;
    let mut volume: Value = bench.get("/v1/volumes/a").await;
    volume["size_bytes"] = "large".into();
    let described = Described::of(&bench.http, &bench.url("/v1/openapi.json")).await;
    let body = serde_json::to_vec(&volume).unwrap();
    let path = "/v1/volumes/a";
    described.check(
        &Method::GET,
        path,
        StatusCode::OK,
        "application/json",
        &body,
    );
}
