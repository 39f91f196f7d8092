//! The way to etcd: its members, of which the one that answered last is asked first.
//!
//! Invariant: a call is repeated on other members until its deadline, so whoever calls here sends only
//! what may arrive twice.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::error::{EtcdError, Fault};
use super::wire::{AuthenticateRequest, AuthenticateResponse};

/// How long to connect.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// How long one member may take for one answer.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);

/// How long all members together may take.
pub(super) const CALL_MAX: Duration = Duration::from_secs(10);

/// The pause after every member has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a connection is tested, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Largest answer: a page of rows, or the history that a watch begins with.
const ANSWER_BYTES_MAX: usize = 256 << 20;

const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// How to reach etcd. Neither the key nor the password is in what `Debug` shows.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// Its members, as `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// The certificate of who signed theirs, in PEM; needed for `https`.
    pub ca_pem: Option<Vec<u8>>,
    /// A certificate and its key, in PEM, to show them.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// A user and its password.
    pub user: Option<(String, String)>,
    /// What the keys of this cluster begin with; `/ashlar` where it is empty.
    pub root: String,
    /// How long a leader that is gone keeps others from leading, in seconds; 2 where it is `None`. etcd
    /// grants no less than one and a half of its election timeouts, in whole seconds.
    pub lease_seconds: Option<u16>,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("EtcdOptions");
        shown.field("endpoints", &self.endpoints);
        shown.field("user", &self.user.as_ref().map(|(name, _)| name));
        shown.field("root", &self.root).finish_non_exhaustive()
    }
}

pub(super) struct Link {
    members: Vec<Channel>,
    /// The one to ask first.
    first: watch::Sender<usize>,
    user: Option<(String, String)>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
}

impl Link {
    /// Connects to nobody yet.
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, EtcdError> {
        let members: Result<Vec<Channel>, EtcdError> = options
            .endpoints
            .iter()
            .map(|endpoint| channel(endpoint, options))
            .collect();
        let members = members?;
        if members.is_empty() {
            let endpoint = String::new();
            return Err(EtcdError::Endpoint { endpoint });
        }
        Ok(Self {
            members,
            first: watch::Sender::new(0),
            user: options.user.clone(),
            token: Mutex::default(),
        })
    }

    /// Asks, and asks again elsewhere, up to [`CALL_MAX`].
    pub(super) async fn call<Q, A>(&self, path: &'static str, question: &Q) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut is_uncertain = false;
        self.call_noting(path, question, &mut is_uncertain).await
    }

    /// As [`Link::call`]; sets `is_uncertain` where some member took the call and did not say how it
    /// went.
    pub(super) async fn call_noting<Q, A>(
        &self,
        path: &'static str,
        question: &Q,
        is_uncertain: &mut bool,
    ) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let deadline = Instant::now() + CALL_MAX;
        let mut tries = 0;
        loop {
            let fault = match self.attempt(path, question).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            tries += 1;
            match fault {
                Fault::Login if self.user.is_some() && tries <= self.members.len() => {
                    self.log_in().await?;
                    continue;
                }
                Fault::Elsewhere(reason) => {
                    *is_uncertain = true;
                    if Instant::now() >= deadline {
                        return Err(Fault::Elsewhere(reason));
                    }
                }
                other => return Err(other),
            }
            if tries % self.members.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Asks one member, once. One that does not answer well is not the first to be asked next time.
    pub(super) async fn attempt<Q, A>(&self, path: &'static str, question: &Q) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        if self.needs_login() {
            self.log_in().await?;
        }
        self.ask(path, question).await
    }

    async fn ask<Q, A>(&self, path: &'static str, question: &Q) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let (index, mut member) = self.member();
        let request = self.request(question.clone());
        let codec = ProstCodec::<Q, A>::default();
        let call = async {
            member
                .ready()
                .await
                .map_err(|error| Fault::Elsewhere(root_cause(&error)))?;
            let answer = member
                .unary(request, PathAndQuery::from_static(path), codec)
                .await;
            answer.map(tonic::Response::into_inner).map_err(Fault::from)
        };
        let answer = tokio::time::timeout(ATTEMPT_MAX, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Fault::Elsewhere("no answer in time".into())));
        if matches!(answer, Err(Fault::Elsewhere(_))) {
            self.avoid(index);
        }
        answer
    }

    /// Opens a stream with one member; gives that member's number for [`Link::avoid`].
    pub(super) async fn stream<Q, A, S>(
        &self,
        path: &'static str,
        questions: S,
    ) -> Result<(usize, Streaming<A>), Fault>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
        S: Stream<Item = Q> + Send + 'static,
    {
        if self.needs_login() {
            self.log_in().await?;
        }
        let (index, mut member) = self.member();
        let request = self.request(questions);
        let codec = ProstCodec::<Q, A>::default();
        let call = async {
            member
                .ready()
                .await
                .map_err(|error| Fault::Elsewhere(root_cause(&error)))?;
            let answer = member
                .streaming(request, PathAndQuery::from_static(path), codec)
                .await;
            answer.map(tonic::Response::into_inner).map_err(Fault::from)
        };
        let opened = tokio::time::timeout(ATTEMPT_MAX, call).await;
        let opened = opened.unwrap_or_else(|_| Err(Fault::Elsewhere("no answer in time".into())));
        match opened {
            Ok(stream) => Ok((index, stream)),
            Err(fault) => {
                match fault {
                    Fault::Login => self.forget_login(),
                    _ => self.avoid(index),
                }
                Err(fault)
            }
        }
    }

    /// Another member is asked first from now on, unless one is already.
    pub(super) fn avoid(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        self.first.send_if_modified(|first| {
            // Another call may have been faster.
            let is_news = *first == index && next != index;
            if is_news {
                *first = next;
            }
            is_news
        });
    }

    /// Waits until another member than that is asked first.
    pub(super) async fn avoided(&self, index: usize) {
        let mut first = self.first.subscribe();
        let _ = first.wait_for(|first| *first != index).await;
    }

    /// The member that is asked first has not answered.
    pub(super) fn avoid_first(&self) {
        let first = *self.first.borrow();
        self.avoid(first);
    }

    /// Logs in anew before the next call.
    pub(super) fn forget_login(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn member(&self) -> (usize, Grpc<Channel>) {
        let index = *self.first.borrow() % self.members.len();
        let member = Grpc::new(self.members[index].clone());
        (index, member.max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    fn request<T>(&self, question: T) -> Request<T> {
        let mut request = Request::new(question);
        // A member that is cut off from the others says so, and does not keep a watch waiting.
        let headers = request.metadata_mut();
        headers.insert("hasleader", MetadataValue::from_static("true"));
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &*token {
            headers.insert("token", token.clone());
        }
        drop(token);
        request
    }

    fn needs_login(&self) -> bool {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        self.user.is_some() && token.is_none()
    }

    async fn log_in(&self) -> Result<(), Fault> {
        let Some((name, password)) = self.user.clone() else {
            return Ok(());
        };
        self.forget_login();
        let question = AuthenticateRequest { name, password };
        let answer: AuthenticateResponse = match self.ask(AUTHENTICATE, &question).await {
            Err(Fault::Login) => {
                let reason = "the name or the password is wrong".to_owned();
                return Err(Fault::Final(EtcdError::Denied { reason }));
            }
            other => other?,
        };
        let strange = |_| Fault::Elsewhere("its token is no text".to_owned());
        let token = answer.token.parse().map_err(strange)?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }
}

fn channel(endpoint: &str, options: &EtcdOptions) -> Result<Channel, EtcdError> {
    let wrong = || EtcdError::Endpoint {
        endpoint: endpoint.to_owned(),
    };
    let is_secure = endpoint.starts_with("https://");
    if !is_secure && !endpoint.starts_with("http://") {
        return Err(wrong());
    }
    let mut built = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|_| wrong())?
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    if is_secure {
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &options.ca_pem {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &options.identity_pem {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        built = built.tls_config(tls).map_err(|error| EtcdError::Tls {
            reason: root_cause(&error),
        })?;
    }
    Ok(built.connect_lazy())
}

/// The innermost cause, which says what a person can act on.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_etcd_is_not_shown() {
        let secret = "correct horse";
        let options = EtcdOptions {
            user: Some(("ada".to_owned(), secret.to_owned())),
            identity_pem: Some((b"certificate".to_vec(), secret.as_bytes().to_vec())),
            ..EtcdOptions::default()
        };
        let shown = format!("{options:?}");
        assert!(shown.contains("ada") && !shown.contains("horse"), "{shown}");
        assert!(
            !shown.contains(&format!("{:?}", secret.as_bytes())),
            "{shown}"
        );
    }
}
