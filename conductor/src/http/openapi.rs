//! The OpenAPI 3.1 document, made from the descriptions of the routes.
//!
//! Schemas are those by which requests are read. An answer fits them too, and may have fields beside
//! those that are named: readers pass over what they do not know.

use axum::http::StatusCode;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::operation::Operation;
use super::problem::Code;

const ABOUT: &str = "The conductor's API: volumes, snapshots, nodes, disks, iSCSI targets and what \
     becomes of them. Ids are hexadecimal text, sizes are bytes. What a successful answer says is \
     durable. A refusal is `application/problem+json` (RFC 9457) with a stable `code`.";

/// The document of these operations.
pub(super) fn document(operations: &[Operation]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<ashlar_proto::api::Problem>();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = describe(operation, &mut generator);
    }
    let mut schemas: Map<String, Value> = generator.take_definitions(true);
    let codes: Vec<&str> = Code::all().map(|code| code.facts().0).collect();
    let about = "Every code there is. One that was given keeps its meaning.";
    let codes = json!({"type": "string", "description": about, "enum": codes});
    schemas.insert("ProblemCode".to_owned(), codes);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ashlar",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// The bytes of a document.
pub(super) fn text(document: &Value) -> String {
    // A value without maps whose keys are no text: nothing that JSON cannot say.
    serde_json::to_string_pretty(document).unwrap_or_default() + "\n"
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [tag(operation.path)],
        "responses": responses(operation, generator),
    });
    let mut parameters = parts(operation, generator);
    if let Some(query) = operation.query {
        parameters.extend(query_parameters(&query(generator)));
    }
    parameters.extend(super::headers::of_requests(operation));
    if !parameters.is_empty() {
        described["parameters"] = Value::Array(parameters);
    }
    if let Some(body) = operation.body {
        let schema = body(generator);
        described["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": schema}},
        });
    }
    described
}

/// The first word of a path after the version.
fn tag(path: &str) -> &str {
    let rest = path.strip_prefix("/v1/").unwrap_or("health");
    rest.split('/').next().unwrap_or(rest)
}

fn parts(operation: &Operation, generator: &mut SchemaGenerator) -> Vec<Value> {
    let names = operation.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?;
        name.strip_suffix('}')
    });
    let described = names.map(|name| {
        let typed = operation.parts.iter().find(|part| part.name == name);
        let schema = match typed {
            Some(part) => Value::from((part.schema)(generator)),
            None => json!({"type": "string", "minLength": 1}),
        };
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    });
    described.collect()
}

fn query_parameters(schema: &Schema) -> Vec<Value> {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| {
        let mut names = required.into_iter().flatten();
        names.any(|one| one.as_str() == Some(name))
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    let described = properties.into_iter().flatten().map(|(name, property)| {
        let mut schema = property.clone();
        let about = schema.as_object_mut().and_then(|s| s.remove("description"));
        // What is not given is not there: there is no null in a query.
        if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
            kinds.retain(|kind| kind != "null");
            if let [one] = kinds.as_slice() {
                schema["type"] = one.clone();
            }
        }
        if let Some(any) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
            any.retain(|one| one.get("type").is_none_or(|kind| kind != "null"));
        }
        if schema.get("default") == Some(&Value::Null) {
            schema
                .as_object_mut()
                .map(|schema| schema.remove("default"));
        }
        let required = is_required(name);
        let mut parameter = json!({"name": name, "in": "query", "required": required});
        if let Some(about) = about {
            parameter["description"] = about;
        }
        parameter["schema"] = schema;
        parameter
    });
    described.collect()
}

fn responses(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut responses: Map<String, Value> = Map::new();
    for said in &operation.answers {
        let response = responses
            .entry(said.status.as_str())
            .or_insert_with(|| json!({"description": said.when}));
        if let Some((kind, schema)) = said.body {
            response["content"][kind]["schema"] = Value::from(schema(generator));
        }
        let headers = super::headers::of_answers(operation, said);
        if !headers.is_empty() {
            response["headers"] = Value::Object(headers);
        }
    }
    let codes = operation.all_codes();
    let mut statuses: Vec<StatusCode> = codes.iter().map(|code| code.facts().2).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let codes = codes.iter().map(|code| code.facts());
        let codes: Vec<&str> = codes.filter(|f| f.2 == status).map(|f| f.0).collect();
        responses.insert(status.as_str().to_owned(), refusal(status, &codes));
    }
    Value::Object(responses)
}

fn refusal(status: StatusCode, codes: &[&str]) -> Value {
    let quoted: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
    let schema = json!({
        "allOf": [{"$ref": "#/components/schemas/Problem"}],
        "properties": {"code": {"enum": codes}},
    });
    let mut refusal = json!({
        "description": quoted.join(", "),
        "content": {"application/problem+json": {"schema": schema}},
    });
    if status == StatusCode::TEMPORARY_REDIRECT {
        let about = "The same request at the conductor that leads.";
        refusal["headers"]["Location"] = json!({
            "description": about,
            "schema": {"type": "string"},
        });
    }
    refusal
}

#[cfg(test)]
mod tests;
