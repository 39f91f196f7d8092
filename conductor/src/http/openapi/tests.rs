//! The document that is kept in the repository is the one that is served.

use std::collections::BTreeSet;

use super::*;
use crate::http::all_routes;
use crate::meta::redb_store::RedbStore;

fn operations() -> Vec<Operation> {
    all_routes::<RedbStore>().into_parts().1
}

#[test]
fn the_document_in_the_repository_is_the_one_that_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let made = text(&document(&operations()));
    if std::env::var_os("ASHLAR_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/openapi.json is not what the code says: run scripts/write-openapi"
    );
}

#[test]
fn ids_of_operations_are_given_once() {
    let operations = operations();
    let ids: BTreeSet<&str> = operations.iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), operations.len());
    for operation in &operations {
        assert!(!operation.answers.is_empty(), "{}", operation.id);
        for part in &operation.parts {
            let named = format!("{{{}}}", part.name);
            assert!(operation.path.contains(&named), "{}", operation.id);
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document(&operations());
    let text = text(&document);
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object() || schema.is_boolean(), "{name}");
    }
    assert!(!text.contains("$defs"));
}

#[test]
fn every_code_is_in_the_reference_for_people() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    let reference = std::fs::read_to_string(path).unwrap();
    for code in Code::all() {
        let (code, _, status) = code.facts();
        let told = reference.lines().any(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let codes = cells.next().unwrap_or_default();
            codes.contains(&format!("`{code}`")) && cells.next() == Some(status.as_str())
        });
        assert!(told, "docs/api.md has no row for {code} with {status}");
    }
}
