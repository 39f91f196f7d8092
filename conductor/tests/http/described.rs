//! The document of the API, and whether answers are as it says.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The document of a conductor.
pub struct Described {
    document: Value,
}

impl Described {
    /// As a conductor serves it.
    pub async fn of(http: &reqwest::Client, url: &str) -> Self {
        let answer = http.get(url).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        let document = answer.json().await.unwrap();
        Self { document }
    }

    /// Its paths.
    pub fn paths(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.document["paths"].as_object().unwrap().iter()
    }

    /// The document.
    pub fn document(&self) -> &Value {
        &self.document
    }

    fn operation(&self, method: &Method, path: &str) -> Option<(&String, &Value)> {
        let path = path.split('?').next().unwrap();
        let fits = |template: &str| {
            let (mut named, mut given) = (template.split('/'), path.split('/'));
            loop {
                match (named.next(), given.next()) {
                    (None, None) => return true,
                    (Some(named), Some(given)) => {
                        if named != given && (!named.starts_with('{') || given.is_empty()) {
                            return false;
                        }
                    }
                    _ => return false,
                }
            }
        };
        let method = method.as_str().to_ascii_lowercase();
        let found = self.paths().filter(|(template, _)| fits(template));
        // A path without parts of any text comes before one with.
        let best = found.min_by_key(|(template, _)| template.matches('{').count())?;
        Some((best.0, best.1.get(method)?))
    }

    /// Fails where an answer is not one of those that the document names.
    pub fn check(&self, method: &Method, path: &str, status: StatusCode, kind: &str, body: &[u8]) {
        let Some((template, operation)) = self.operation(method, path) else {
            let problem: Value = serde_json::from_slice(body).unwrap();
            let code = problem["code"].as_str().unwrap();
            assert!(
                ["route-not-found", "method-not-allowed"].contains(&code),
                "{method} {path}: {code} of what is not in the document"
            );
            return;
        };
        let what = format!("{method} {template} {status}");
        let response = &operation["responses"][status.as_str()];
        assert!(
            response.is_object(),
            "{what} is not in the document: {}",
            text(body)
        );
        let Some(content) = response.get("content") else {
            assert!(body.is_empty(), "{what} has a body: {}", text(body));
            return;
        };
        let schema = &content[kind]["schema"];
        assert!(
            schema.is_object() || schema.is_boolean(),
            "{what}: {kind} is not in the document"
        );
        if !kind.ends_with("json") {
            return;
        }
        let instance: Value = serde_json::from_slice(body).unwrap();
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "allOf": [schema],
            "components": self.document["components"],
        });
        let validator = jsonschema::validator_for(&whole).unwrap();
        let errors = validator.iter_errors(&instance);
        let errors: Vec<String> = errors
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:#?} in {}", text(body));
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(2000).collect()
}
