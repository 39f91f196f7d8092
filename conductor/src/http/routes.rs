//! Routes with their descriptions: there is no way to add the one without the other.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, post, put};

use super::operation::Operation;

/// A router, and what each of its routes takes and answers.
pub(super) struct Routes<S> {
    router: Router<S>,
    operations: Vec<Operation>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// None.
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            operations: Vec::new(),
        }
    }

    /// `GET path`.
    pub(super) fn get<H, T>(self, path: &'static str, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(Method::GET, path, get(handler), operation)
    }

    /// `POST path`.
    pub(super) fn post<H, T>(self, path: &'static str, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(Method::POST, path, post(handler), operation)
    }

    /// `PUT path`.
    pub(super) fn put<H, T>(self, path: &'static str, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(Method::PUT, path, put(handler), operation)
    }

    /// `DELETE path`.
    pub(super) fn delete<H, T>(self, path: &'static str, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add(Method::DELETE, path, delete(handler), operation)
    }

    fn add(
        mut self,
        method: Method,
        path: &'static str,
        handler: MethodRouter<S>,
        operation: Operation,
    ) -> Self {
        self.router = self.router.route(path, handler);
        self.operations.push(Operation {
            method,
            path,
            ..operation
        });
        self
    }

    /// These and others.
    pub(super) fn with(mut self, others: Self) -> Self {
        self.router = self.router.merge(others.router);
        self.operations.extend(others.operations);
        self
    }

    /// The router and the descriptions.
    pub(super) fn into_parts(self) -> (Router<S>, Vec<Operation>) {
        (self.router, self.operations)
    }
}
