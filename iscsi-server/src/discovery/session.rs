//! A discovery session: one connection, one request at a time (RFC 7143 section 4.3).

use super::{Asking, TextExchange, TextFault, TextStep, answer, declared_segment};
use crate::catalog::TargetCatalog;
use crate::framing::{FramingError, Head, Segment, put_pdu, receive_data, receive_head, skip_data};
use crate::parameters::ConnectionParameters;
use crate::pdu::{
    Bhs, LogoutRequest, NO_TAG, NopIn, NopOut, RejectReason, Request, Response, Sequence,
    TextRequest, cmd_sn, is_immediate,
};
use crate::sessions::Registry;
use ashlar_front_end::{Input, Outbox, TransportError};
use std::rc::Rc;
use std::time::Duration;

/// How long an initiator may take for its next request: it came to ask, not to stay.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Longest data segment of a request here.
const DATA_BYTES_MAX: usize = 16 << 10;

/// Why a discovery session was dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiscoveryError {
    /// The stream of PDUs cannot be read on.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The initiator sent nothing, or did not take what was sent.
    #[error("initiator did nothing for a minute")]
    Idle,
    /// It sent more data than a discovery session needs.
    #[error("data segment of {0} bytes in a discovery session")]
    TooMuch(usize),
}

impl From<TransportError> for DiscoveryError {
    fn from(error: TransportError) -> Self {
        Self::Framing(error.into())
    }
}

/// Where a discovery session is.
struct Discovery<'a, C: TargetCatalog> {
    registry: &'a Rc<Registry<C>>,
    asking: Asking<'a>,
    parameters: ConnectionParameters,
    stat_sn: u32,
    cmd_sn: u32,
    next_ttt: u32,
    exchange: TextExchange,
}

/// Serves a discovery session to its end.
///
/// # Errors
/// [`DiscoveryError`].
pub(crate) async fn discover<C: TargetCatalog>(
    registry: &Rc<Registry<C>>,
    input: &mut Input,
    asking: Asking<'_>,
    (parameters, stat_sn, cmd_sn): (ConnectionParameters, u32, u32),
) -> Result<(), DiscoveryError> {
    let mut discovery = Discovery {
        registry,
        asking,
        parameters,
        stat_sn,
        cmd_sn,
        next_ttt: 0,
        exchange: TextExchange::default(),
    };
    loop {
        let serving = discovery.serve_one(input);
        match registry.reactor.timeout(IDLE_MAX, serving).await {
            Err(_) => return Err(DiscoveryError::Idle),
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(()),
            Ok(Err(DiscoveryError::Framing(FramingError::Transport(TransportError::Closed)))) => {
                return Ok(());
            }
            Ok(Err(error)) => return Err(error),
        }
    }
}

impl<C: TargetCatalog> Discovery<'_, C> {
    /// Serves one request; false once the initiator has logged out.
    async fn serve_one(&mut self, input: &mut Input) -> Result<bool, DiscoveryError> {
        let parameters = self.parameters;
        let Head {
            bhs, data_bytes, ..
        } = receive_head(input, &parameters).await?;
        if data_bytes > DATA_BYTES_MAX {
            return Err(DiscoveryError::TooMuch(data_bytes));
        }
        if !is_immediate(&bhs) {
            if cmd_sn(&bhs) != self.cmd_sn {
                skip_data(input, &parameters, data_bytes).await?;
                return Ok(true);
            }
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
        let Some(data) = receive_data(input, &parameters, data_bytes).await? else {
            self.reject(input, RejectReason::DataDigest, &bhs).await?;
            return Ok(true);
        };
        match Request::parse(&bhs) {
            Ok(Request::Text(request)) => self.text(input, &bhs, &request, &data).await?,
            Ok(Request::NopOut(nop)) => self.pong(input, &nop, &data).await?,
            Ok(Request::Logout(request)) => {
                self.log_out(input, request).await?;
                return Ok(false);
            }
            Ok(_) => self.reject(input, RejectReason::Protocol, &bhs).await?,
            Err(_) => self.reject(input, RejectReason::NotSupported, &bhs).await?,
        }
        Ok(true)
    }

    async fn text(
        &mut self,
        input: &Input,
        bhs: &Bhs,
        request: &TextRequest,
        data: &[u8],
    ) -> Result<(), DiscoveryError> {
        self.next_ttt = (self.next_ttt + 1) % NO_TAG;
        let ttt = self.next_ttt;
        let answered = match self.exchange.take(request, data, ttt) {
            Ok(TextStep::Ask(ttt)) => return self.put_text(input, request, &[], ttt).await,
            Ok(TextStep::SendOn) => Ok(()),
            Ok(TextStep::Answer(keys)) => {
                if let Some(len) = declared_segment(&keys) {
                    self.parameters.send_segment_max = len;
                }
                let answered = answer(self.registry, &self.asking, &keys).await;
                answered.map(|answer| self.exchange.begin(answer))
            }
            Err(fault) => Err(fault),
        };
        match answered {
            Ok(()) => {
                let piece = self.exchange.piece(self.parameters.send_segment_max, ttt);
                self.put_text(input, request, &piece.bytes, piece.ttt).await
            }
            Err(TextFault::Protocol) => self.reject(input, RejectReason::Protocol, bhs).await,
            Err(TextFault::Unavailable) => {
                self.reject(input, RejectReason::OutOfResources, bhs).await
            }
        }
    }

    async fn put_text(
        &mut self,
        input: &Input,
        request: &TextRequest,
        bytes: &[u8],
        ttt: u32,
    ) -> Result<(), DiscoveryError> {
        let is_final = ttt == NO_TAG;
        let response = Response::Text {
            itt: request.itt,
            ttt,
            lun: request.lun,
            is_final,
            continues: !is_final && !bytes.is_empty(),
        };
        self.say(input, &response, bytes).await
    }

    async fn pong(
        &mut self,
        input: &Input,
        nop: &NopOut,
        data: &[u8],
    ) -> Result<(), DiscoveryError> {
        if nop.itt == NO_TAG {
            return Ok(());
        }
        let pong = NopIn {
            lun: nop.lun,
            itt: nop.itt,
            ttt: NO_TAG,
        };
        let len = data.len().min(self.parameters.send_segment_max);
        self.say(input, &Response::NopIn(pong), &data[..len]).await
    }

    async fn log_out(
        &mut self,
        input: &Input,
        request: LogoutRequest,
    ) -> Result<(), DiscoveryError> {
        let response = Response::Logout {
            itt: request.itt,
            response: 0,
            time_to_wait: 0,
            time_to_retain: 0,
        };
        self.say(input, &response, &[]).await
    }

    async fn reject(
        &mut self,
        input: &Input,
        reason: RejectReason,
        bhs: &Bhs,
    ) -> Result<(), DiscoveryError> {
        self.say(input, &Response::Reject(reason), bhs).await
    }

    async fn say(
        &mut self,
        input: &Input,
        response: &Response,
        data: &[u8],
    ) -> Result<(), DiscoveryError> {
        let bhs = response.bhs(Sequence {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.cmd_sn,
            max_cmd_sn: self.cmd_sn,
        });
        self.stat_sn = self.stat_sn.wrapping_add(1);
        let mut outbox = Outbox::new(&self.registry.reactor);
        put_pdu(&mut outbox, &self.parameters, bhs, &Segment::Bytes(data));
        let transport = input.transport().clone();
        let (pieces, _) = outbox.take();
        Ok(transport.send(pieces).await?)
    }
}
