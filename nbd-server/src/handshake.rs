//! The handshake of one connection: greeting and option haggling, up to transmission.
//!
//! ```text
//! greeting ─▶ client flags ─▶ option ──▶ EXPORT_NAME, GO ──▶ transmission
//!                               ▲ │
//!                               └─┘ LIST, INFO, contexts, headers, STARTTLS (all state anew)
//! ```
//!
//! Invariants: a client has a fixed time for all of it, the catalog's time not counted; it can
//! make the server hold no more than one option of [`OPTION_BYTES_MAX`].

mod contexts;

use crate::catalog::{ExportCatalog, ExportInfo, OpenError};
use crate::contexts::Contexts;
use crate::haggling::{
    InfoRequest, OPTION_HEADER_BYTES, OptionHeader, OptionReplies, transmission_flags,
};
use crate::options::{NbdOptions, Tls};
use crate::request::{Dialect, Rules};
use crate::wire::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Fields, INIT_MAGIC, OPTION_MAGIC, info, option,
    option_reply, string,
};
use ashlar_client::BlockDevice;
use ashlar_front_end::Input;
use ashlar_front_end::{Transport, TransportError};
use ashlar_reactor::{Instant, Reactor, Stream};
use contexts::Selection;
use std::future::Future;
use std::rc::Rc;

/// Longest data of an option: many times what names and queries of clients take.
const OPTION_BYTES_MAX: u32 = 64 << 10;
/// Longest data of an option that is read and answered with `NBD_REP_ERR_TOO_BIG`.
const OPTION_DRAIN_BYTES_MAX: u32 = 1 << 20;
/// Zeroes after the reply to `NBD_OPT_EXPORT_NAME`.
const EXPORT_NAME_ZEROES: usize = 124;

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The connection failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The client took too long.
    #[error("client did not finish its handshake in time")]
    TimedOut,
    /// The client sent flags that do not exist.
    #[error("client sent unknown flags {0:#x}")]
    ClientFlags(u32),
    /// An option did not begin with its magic.
    #[error("option does not begin with its magic number")]
    BadMagic,
    /// An option announced more data than can be tolerated.
    #[error("option {option} announced {data_bytes} bytes of data")]
    OptionTooLong {
        /// Which.
        option: u32,
        /// How much.
        data_bytes: u32,
    },
    /// The client sent bytes before TLS began that must not be taken for part of it.
    #[error("client sent data between STARTTLS and its TLS handshake")]
    EarlyData,
    /// `NBD_OPT_EXPORT_NAME` has no error reply: the connection ends.
    #[error("export name that cannot be served: {0}")]
    Export(OpenError),
    /// `NBD_OPT_EXPORT_NAME` where it must not be.
    #[error("client chose an export by NBD_OPT_EXPORT_NAME without TLS or with extended headers")]
    ExportNameForbidden,
}

/// A connection that is ready for transmission.
pub(crate) struct Negotiated<D> {
    pub(crate) input: Input,
    pub(crate) device: D,
    pub(crate) rules: Rules,
    pub(crate) contexts: Contexts,
    pub(crate) export: String,
}

/// What has been negotiated so far.
struct State {
    dialect: Dialect,
    /// The metadata contexts that were selected.
    selection: Option<Selection>,
}

impl State {
    const fn new() -> Self {
        Self {
            dialect: Dialect::Simple,
            selection: None,
        }
    }
}

/// What comes after an option.
enum Next<D> {
    Option,
    Transmission {
        device: D,
        rules: Rules,
        contexts: Contexts,
        export: String,
    },
    Aborted,
}

/// One handshake.
pub(crate) struct Handshake<'a, C> {
    reactor: &'a Reactor,
    catalog: &'a Rc<C>,
    options: &'a NbdOptions,
    stream: Stream,
    input: Input,
    deadline: Instant,
    state: State,
    fixed: bool,
    no_zeroes: bool,
}

impl<'a, C: ExportCatalog> Handshake<'a, C> {
    pub(crate) fn new(
        reactor: &'a Reactor,
        catalog: &'a Rc<C>,
        options: &'a NbdOptions,
        stream: Stream,
    ) -> Self {
        Self {
            reactor,
            catalog,
            options,
            input: Input::new(reactor, Transport::Plain(stream.clone())),
            stream,
            deadline: reactor.now() + options.limits.handshake,
            state: State::new(),
            fixed: false,
            no_zeroes: false,
        }
    }

    /// Runs it; `None` if the client ended it itself.
    pub(crate) async fn run(mut self) -> Result<Option<Negotiated<C::Device>>, HandshakeError> {
        self.greet().await?;
        loop {
            match self.option().await? {
                Next::Option => {}
                Next::Aborted => {
                    let transport = self.input.transport().clone();
                    self.in_time(transport.close()).await?;
                    return Ok(None);
                }
                Next::Transmission {
                    device,
                    rules,
                    contexts,
                    export,
                } => {
                    return Ok(Some(Negotiated {
                        input: self.input,
                        device,
                        rules,
                        contexts,
                        export,
                    }));
                }
            }
        }
    }

    async fn in_time<T>(&self, future: impl Future<Output = T>) -> Result<T, HandshakeError> {
        let left = self.deadline - self.reactor.now();
        let done = self.reactor.timeout(left, future).await;
        done.map_err(|_| HandshakeError::TimedOut)
    }

    async fn fill(&mut self, len: usize) -> Result<(), HandshakeError> {
        if self.input.available().len() >= len {
            return Ok(());
        }
        let left = self.deadline - self.reactor.now();
        let filled = self.reactor.timeout(left, self.input.fill(len)).await;
        Ok(filled.map_err(|_| HandshakeError::TimedOut)??)
    }

    async fn skip(&mut self, len: u32) -> Result<(), HandshakeError> {
        let left = self.deadline - self.reactor.now();
        let skipped = self
            .reactor
            .timeout(left, self.input.skip(len.into()))
            .await;
        Ok(skipped.map_err(|_| HandshakeError::TimedOut)??)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let mut buffer = self.reactor.buffer(bytes.len());
        buffer.copy_from_slice(bytes);
        let transport = self.input.transport();
        Ok(self
            .in_time(transport.send(vec![buffer.freeze()]))
            .await??)
    }

    /// Awaits the catalog: its time is not the client's.
    async fn catalog<T>(&mut self, future: impl Future<Output = T>) -> T {
        let began = self.reactor.now();
        let output = future.await;
        self.deadline += self.reactor.now() - began;
        output
    }

    async fn greet(&mut self) -> Result<(), HandshakeError> {
        let mut greeting = Vec::with_capacity(18);
        greeting.extend(INIT_MAGIC.to_be_bytes());
        greeting.extend(OPTION_MAGIC.to_be_bytes());
        greeting.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        self.send(&greeting).await?;
        self.fill(4).await?;
        let flags = Fields::new(self.input.available()).u32().unwrap_or(0);
        self.input.consume(4);
        if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
            return Err(HandshakeError::ClientFlags(flags));
        }
        self.fixed = flags & u32::from(FLAG_FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        Ok(())
    }

    /// Reads and answers one option.
    async fn option(&mut self) -> Result<Next<C::Device>, HandshakeError> {
        self.fill(OPTION_HEADER_BYTES).await?;
        let header = OptionHeader::parse(self.input.available()).ok_or(HandshakeError::BadMagic)?;
        let OptionHeader { option, data_bytes } = header;
        self.input.consume(OPTION_HEADER_BYTES);
        let replies = OptionReplies::to(option);
        if data_bytes > OPTION_BYTES_MAX {
            if data_bytes > OPTION_DRAIN_BYTES_MAX || option == option::EXPORT_NAME {
                return Err(HandshakeError::OptionTooLong { option, data_bytes });
            }
            self.skip(data_bytes).await?;
            let reason = "the option has too much data";
            self.send(&replies.error(option_reply::ERR_TOO_BIG, reason))
                .await?;
            return Ok(Next::Option);
        }
        let len = data_bytes as usize;
        self.fill(len).await?;
        let data = self.input.available()[..len].to_vec();
        self.input.consume(len);
        let encrypted = self.input.transport().is_encrypted();
        let locked = matches!(self.options.tls, Tls::Require(_)) && !encrypted;
        let answer = match option {
            option::ABORT => {
                // The client may have gone without waiting for this.
                let _ = self.send(&replies.ack()).await;
                return Ok(Next::Aborted);
            }
            option::EXPORT_NAME if locked => return Err(HandshakeError::ExportNameForbidden),
            option::EXPORT_NAME => return self.export_name(&data).await,
            option::STARTTLS => return self.start_tls(replies, &data).await,
            _ if locked => replies.error(option_reply::ERR_TLS_REQD, "this server requires TLS"),
            option::LIST => self.list(replies, &data).await,
            option::INFO => self.info(replies, &data).await,
            option::GO => return self.go(replies, &data).await,
            option::STRUCTURED_REPLY => self.structured_reply(replies, &data),
            option::EXTENDED_HEADERS => self.extended_headers(replies, &data),
            option::LIST_META_CONTEXT => self.list_contexts(replies, &data).await,
            option::SET_META_CONTEXT => self.set_contexts(replies, &data).await,
            _ => replies.error(option_reply::ERR_UNSUP, "this server has no such option"),
        };
        self.send(&answer).await?;
        Ok(Next::Option)
    }

    async fn start_tls(
        &mut self,
        replies: OptionReplies,
        data: &[u8],
    ) -> Result<Next<C::Device>, HandshakeError> {
        let refusal = if self.input.transport().is_encrypted() {
            Some((option_reply::ERR_INVALID, "TLS is already in use"))
        } else if !data.is_empty() {
            Some((option_reply::ERR_INVALID, "the option takes no data"))
        } else if !self.fixed || self.options.tls.server().is_none() {
            Some((
                option_reply::ERR_POLICY,
                "this server is set up without TLS",
            ))
        } else {
            None
        };
        if let Some((kind, reason)) = refusal {
            self.send(&replies.error(kind, reason)).await?;
            return Ok(Next::Option);
        }
        // What came in the clear must not pass for something said under encryption.
        if !self.input.available().is_empty() {
            return Err(HandshakeError::EarlyData);
        }
        self.send(&replies.ack()).await?;
        let server = self.options.tls.server().expect("looked at above");
        let accepted = server.accept(self.reactor, self.stream.clone());
        let transport = self.in_time(accepted).await??;
        self.input = Input::new(self.reactor, transport);
        self.state = State::new();
        Ok(Next::Option)
    }

    async fn list(&mut self, mut replies: OptionReplies, data: &[u8]) -> Vec<u8> {
        if !data.is_empty() {
            return replies.error(option_reply::ERR_INVALID, "the option takes no data");
        }
        let catalog = self.catalog;
        match self.catalog(catalog.list()).await {
            Ok(exports) => {
                for export in &exports {
                    replies.server(export);
                }
                replies.ack()
            }
            Err(error) => replies.error(reply_of(&error), &error.to_string()),
        }
    }

    /// The export that a client means: the empty name is the only export, if there is one only.
    async fn find(&mut self, name: &str) -> Result<ExportInfo, OpenError> {
        let catalog = self.catalog;
        if !name.is_empty() {
            return self.catalog(catalog.find(name)).await;
        }
        let mut exports = self.catalog(catalog.list()).await?;
        match exports.pop() {
            Some(only) if exports.is_empty() => Ok(only),
            _ => Err(OpenError::Unknown),
        }
    }

    /// Puts what is told of an export, and gives the rules that it would be used by.
    fn describe(
        &self,
        replies: &mut OptionReplies,
        request: &InfoRequest<'_>,
        export: &ExportInfo,
    ) -> Rules {
        let rules = self.rules(request.name, export);
        let flags = flags_of(&rules);
        replies.export(&rules.geometry, flags);
        if request.wants_name {
            replies.text(info::NAME, &export.name);
        }
        if let (true, Some(description)) = (request.wants_description, &export.description) {
            replies.text(info::DESCRIPTION, description);
        }
        rules
    }

    fn rules(&self, name: &str, export: &ExportInfo) -> Rules {
        Rules {
            dialect: self.state.dialect,
            geometry: export.geometry,
            contexts: self.contexts(name).ids(),
        }
    }

    /// What was selected for the export of that name.
    fn contexts(&self, name: &str) -> Contexts {
        Selection::of(self.state.selection.as_ref(), name)
    }

    async fn info(&mut self, mut replies: OptionReplies, data: &[u8]) -> Vec<u8> {
        let Some(request) = InfoRequest::parse(data) else {
            return replies.error(option_reply::ERR_INVALID, "malformed option");
        };
        match self.find(request.name).await {
            Ok(export) => {
                self.describe(&mut replies, &request, &export);
                replies.ack()
            }
            Err(error) => replies.error(reply_of(&error), &error.to_string()),
        }
    }

    async fn open(&mut self, name: &str) -> Result<(C::Device, ExportInfo), OpenError> {
        let mut export = self.find(name).await?;
        // A task of its own: what was begun ends even if this connection does first.
        let (catalog, name) = (Rc::clone(self.catalog), export.name.clone());
        let opening = self.reactor.spawn(async move { catalog.open(&name).await });
        let device = self.catalog(opening).await?;
        export.geometry = device.geometry();
        Ok((device, export))
    }

    async fn go(
        &mut self,
        mut replies: OptionReplies,
        data: &[u8],
    ) -> Result<Next<C::Device>, HandshakeError> {
        let Some(request) = InfoRequest::parse(data) else {
            let answer = replies.error(option_reply::ERR_INVALID, "malformed option");
            self.send(&answer).await?;
            return Ok(Next::Option);
        };
        match self.open(request.name).await {
            Ok((device, export)) => {
                let rules = self.describe(&mut replies, &request, &export);
                self.send(&replies.ack()).await?;
                Ok(Next::Transmission {
                    device,
                    rules,
                    contexts: self.contexts(request.name),
                    export: export.name,
                })
            }
            Err(error) => {
                tracing::info!(
                    export = request.name,
                    peer = self.stream.peer(),
                    "export refused: {error}"
                );
                let answer = replies.error(reply_of(&error), &error.to_string());
                self.send(&answer).await?;
                Ok(Next::Option)
            }
        }
    }

    async fn export_name(&mut self, data: &[u8]) -> Result<Next<C::Device>, HandshakeError> {
        if self.state.dialect == Dialect::Extended {
            return Err(HandshakeError::ExportNameForbidden);
        }
        let name = string(data).ok_or(HandshakeError::Export(OpenError::Unknown))?;
        let (device, export) = self.open(name).await.map_err(HandshakeError::Export)?;
        let rules = self.rules(name, &export);
        let flags = flags_of(&rules);
        let mut answer = Vec::new();
        answer.extend(rules.geometry.size_bytes.to_be_bytes());
        answer.extend(flags.to_be_bytes());
        if !self.no_zeroes {
            answer.extend([0; EXPORT_NAME_ZEROES]);
        }
        self.send(&answer).await?;
        Ok(Next::Transmission {
            device,
            rules,
            contexts: self.contexts(name),
            export: export.name,
        })
    }

    fn structured_reply(&mut self, replies: OptionReplies, data: &[u8]) -> Vec<u8> {
        if !data.is_empty() {
            return replies.error(option_reply::ERR_INVALID, "the option takes no data");
        }
        match self.state.dialect {
            Dialect::Simple => {
                self.state.dialect = Dialect::Structured;
                replies.ack()
            }
            Dialect::Structured => {
                replies.error(option_reply::ERR_INVALID, "structured replies are in use")
            }
            Dialect::Extended => replies.error(
                option_reply::ERR_EXT_HEADER_REQD,
                "extended headers are in use",
            ),
        }
    }

    fn extended_headers(&mut self, replies: OptionReplies, data: &[u8]) -> Vec<u8> {
        if !data.is_empty() {
            return replies.error(option_reply::ERR_INVALID, "the option takes no data");
        }
        if self.state.dialect == Dialect::Extended {
            return replies.error(option_reply::ERR_INVALID, "extended headers are in use");
        }
        self.state.dialect = Dialect::Extended;
        replies.ack()
    }
}

/// The transmission flags of an export that is used by these rules.
fn flags_of(rules: &Rules) -> u16 {
    let has_status = !rules.contexts.is_empty();
    transmission_flags(&rules.geometry, rules.dialect, has_status)
}

/// The error reply for an export that cannot be had.
fn reply_of(error: &OpenError) -> u32 {
    match error {
        OpenError::Denied => option_reply::ERR_POLICY,
        OpenError::ShuttingDown => option_reply::ERR_SHUTDOWN,
        OpenError::Unknown | OpenError::InUse | OpenError::Unavailable | OpenError::Failed(_) => {
            option_reply::ERR_UNKNOWN
        }
    }
}
