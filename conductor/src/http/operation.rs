//! What a route takes and answers, said where the route is made: the document follows from it.
//!
//! Invariant: [`Operation`] says nothing that its handler does not do; answers of tests are held against
//! it.

use axum::http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::problem::Code;

/// Makes the schema of a type, or refers to it.
pub(super) type Schemed = fn(&mut SchemaGenerator) -> Schema;

/// One part of the path.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) schema: Schemed,
}

/// An answer that is no refusal.
#[derive(Clone, Copy)]
pub(super) struct Said {
    pub(super) status: StatusCode,
    pub(super) when: &'static str,
    /// Media type and schema of the body, if there is one.
    pub(super) body: Option<(&'static str, Schemed)>,
}

/// What may be asked for by a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The route's list can be watched.
    pub(super) watch: bool,
    /// It is carried out once for each idempotency key.
    pub(super) keyed: bool,
    /// It is about one object, with the revision of its row.
    pub(super) tagged: bool,
    /// It must say which revision it is for.
    pub(super) needs_match: bool,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) parts: Vec<Part>,
    pub(super) query: Option<Schemed>,
    pub(super) body: Option<Schemed>,
    pub(super) answers: Vec<Said>,
    pub(super) codes: Vec<Code>,
    pub(super) asked: Asked,
}

const JSON: &str = "application/json";

/// An operation of that id; it gets its method and path from the route.
pub(super) fn op(id: &'static str, summary: &'static str) -> Operation {
    Operation {
        method: Method::GET,
        path: "",
        id,
        summary,
        parts: Vec::new(),
        query: None,
        body: None,
        answers: Vec::new(),
        codes: Vec::new(),
        asked: Asked::default(),
    }
}

impl Operation {
    /// A part of the path that is no free text.
    pub(super) fn part<T: JsonSchema>(mut self, name: &'static str) -> Self {
        let schema = SchemaGenerator::subschema_for::<T>;
        self.parts.push(Part { name, schema });
        self
    }

    /// Its query is read as a `T`.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(|generator| T::json_schema(generator));
        self
    }

    /// Its body is a `T`.
    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// It may answer with a `T`.
    pub(super) fn answers<T: JsonSchema>(mut self, status: StatusCode, when: &'static str) -> Self {
        let body = Some((JSON, SchemaGenerator::subschema_for::<T> as Schemed));
        self.answers.push(Said { status, when, body });
        self
    }

    /// It answers with a `T` where it does as asked.
    pub(super) fn gives<T: JsonSchema>(self) -> Self {
        self.answers::<T>(StatusCode::OK, "as asked")
    }

    /// It answers with nothing but the status.
    pub(super) fn done(mut self, when: &'static str) -> Self {
        self.answers.push(Said {
            status: StatusCode::NO_CONTENT,
            when,
            body: None,
        });
        self
    }

    /// It answers with text.
    pub(super) fn text(mut self, kind: &'static str, when: &'static str) -> Self {
        let body = Some((kind, SchemaGenerator::subschema_for::<String> as Schemed));
        let status = StatusCode::OK;
        self.answers.push(Said { status, when, body });
        self
    }

    /// Its list, of `T`s, can be watched as well.
    pub(super) fn watched<T: JsonSchema>(mut self) -> Self {
        self.asked.watch = true;
        for kind in ["application/x-ndjson", "text/event-stream"] {
            let schema: Schemed =
                SchemaGenerator::subschema_for::<ashlar_proto::api::WatchEvent<T>>;
            self.answers.push(Said {
                status: StatusCode::OK,
                when: "with `watch`: each line, or each `data`, is one of these",
                body: Some((kind, schema)),
            });
        }
        self
    }

    /// It is carried out once for each idempotency key.
    pub(super) fn keyed(mut self) -> Self {
        self.asked.keyed = true;
        self
    }

    /// It is about one object that has an `ETag`.
    pub(super) fn tagged(mut self) -> Self {
        self.asked.tagged = true;
        self
    }

    /// It replaces the whole of that, so it must say of which revision.
    pub(super) fn replaces(mut self) -> Self {
        self.asked.needs_match = true;
        self.tagged()
    }

    /// It may be refused with these, beside what any request of its form may be refused with.
    pub(super) fn refuses(mut self, codes: &[Code]) -> Self {
        self.codes.extend_from_slice(codes);
        self
    }

    /// All codes that it may be refused with, in the order of [`Code`].
    pub(super) fn all_codes(&self) -> Vec<Code> {
        let mut codes = self.codes.clone();
        if self.path.starts_with("/v1/") {
            codes.extend(Code::OF_ANY);
        }
        if !self.parts.is_empty() || self.path.contains('{') || self.query.is_some() {
            codes.push(Code::Malformed);
        }
        if self.body.is_some() {
            codes.extend(Code::OF_BODIES);
        }
        if self.method != Method::GET {
            codes.extend(Code::OF_CHANGES);
        }
        if self.asked.keyed || self.asked.tagged && self.method != Method::GET {
            codes.extend(Code::OF_CONDITIONS);
        }
        if self.asked.needs_match {
            codes.push(Code::MatchNeeded);
        }
        if self.asked.watch {
            codes.push(Code::TooManyWatches);
        }
        codes.sort_unstable();
        codes.dedup();
        codes
    }
}
