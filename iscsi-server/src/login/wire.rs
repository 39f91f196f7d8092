//! Login requests and responses as they come and go.

use super::{Login, LoginError, LoginStatus, REQUESTS_MAX, TEXT_BYTES_MAX};
use crate::catalog::TargetCatalog;
use crate::framing::{FramingError, Segment, put_pdu, receive_data, receive_head};
use crate::parameters::{ConnectionParameters, SEGMENT_DEFAULT};
use crate::pdu::{LoginRequest, LoginResponse, Request, Response, Sequence};
use crate::text::Text;
use ashlar_front_end::Outbox;
use std::future::Future;

impl<C: TargetCatalog> Login<'_, C> {
    /// Awaits something of the initiator.
    async fn in_time<T>(
        deadline: std::time::Duration,
        reactor: &ashlar_reactor::Reactor,
        future: impl Future<Output = T>,
    ) -> Result<T, LoginError> {
        let done = reactor.timeout(deadline, future).await;
        done.map_err(|_| LoginError::TimedOut)
    }

    fn time_left(&self) -> std::time::Duration {
        self.deadline - self.registry.reactor.now()
    }

    /// Receives a whole request: one PDU, or several whose text goes on.
    pub(super) async fn request(&mut self) -> Result<(LoginRequest, Vec<u8>), LoginError> {
        let mut text = Vec::new();
        loop {
            let (request, piece) = self.request_pdu().await?;
            if text.len() + piece.len() > TEXT_BYTES_MAX {
                return Err(LoginError::TooMuch);
            }
            text.extend_from_slice(&piece);
            if !request.continues {
                return Ok((request, text));
            }
            self.respond(&request, None, 0, Text::default()).await?;
        }
    }

    async fn request_pdu(&mut self) -> Result<(LoginRequest, Vec<u8>), LoginError> {
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return Err(LoginError::TooMuch);
        }
        let parameters = ConnectionParameters::default();
        let (left, reactor) = (self.time_left(), self.registry.reactor.clone());
        let head = Self::in_time(left, &reactor, receive_head(self.input, &parameters)).await?;
        let head = head.map_err(|error| match error {
            FramingError::Transport(error) => LoginError::Transport(error),
            FramingError::HeaderDigest | FramingError::SegmentTooLong(_) => LoginError::TooMuch,
        })?;
        let Ok(Request::Login(request)) = Request::parse(&head.bhs) else {
            return Err(LoginError::NoLogin);
        };
        if head.data_bytes > SEGMENT_DEFAULT {
            return Err(LoginError::TooMuch);
        }
        let left = self.time_left();
        let receiving = receive_data(self.input, &parameters, head.data_bytes);
        let data = Self::in_time(left, &reactor, receiving).await??;
        self.check(&request)?;
        Ok((request, data.unwrap_or_default()))
    }

    /// What has to be the same in all requests of a login, and the version.
    fn check(&mut self, request: &LoginRequest) -> Result<(), LoginStatus> {
        let Some(first) = self.first else {
            self.first = Some(*request);
            self.stat_sn = request.exp_stat_sn;
            self.stage = request.current_stage;
            // There is version 0 only.
            return match request.version_min {
                0 => Ok(()),
                _ => Err(LoginStatus::UnsupportedVersion),
            };
        };
        let is_same = request.isid == first.isid
            && request.tsih == first.tsih
            && request.cid == first.cid
            && request.itt == first.itt;
        is_same.then_some(()).ok_or(LoginStatus::InvalidRequest)
    }

    /// Answers a request.
    pub(super) async fn respond(
        &mut self,
        request: &LoginRequest,
        next: Option<u8>,
        tsih: u16,
        answer: Text,
    ) -> Result<(), LoginError> {
        let response = LoginResponse {
            transit: next.is_some(),
            current_stage: request.current_stage,
            next_stage: next.unwrap_or(0),
            isid: request.isid,
            tsih: if tsih == 0 { request.tsih } else { tsih },
            itt: request.itt,
            status: 0,
        };
        self.send(request, response, &answer.into_bytes()).await
    }

    /// Says why not.
    pub(super) async fn refuse(
        &mut self,
        request: &LoginRequest,
        status: LoginStatus,
    ) -> Result<(), LoginError> {
        let response = LoginResponse {
            transit: false,
            current_stage: self.stage,
            next_stage: 0,
            isid: request.isid,
            tsih: request.tsih,
            itt: request.itt,
            status: status.code(),
        };
        self.send(request, response, &[]).await
    }

    async fn send(
        &mut self,
        request: &LoginRequest,
        response: LoginResponse,
        data: &[u8],
    ) -> Result<(), LoginError> {
        let sequence = Sequence {
            stat_sn: self.stat_sn,
            exp_cmd_sn: request.cmd_sn,
            max_cmd_sn: request.cmd_sn,
        };
        self.stat_sn = self.stat_sn.wrapping_add(1);
        let bhs = Response::Login(response).bhs(sequence);
        let mut outbox = Outbox::new(&self.registry.reactor);
        let parameters = ConnectionParameters::default();
        put_pdu(&mut outbox, &parameters, bhs, &Segment::Bytes(data));
        let transport = self.input.transport().clone();
        let (left, reactor) = (self.time_left(), self.registry.reactor.clone());
        let (pieces, _) = outbox.take();
        Self::in_time(left, &reactor, transport.send(pieces)).await??;
        Ok(())
    }
}
