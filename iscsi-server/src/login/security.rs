//! The security stage: which method, and CHAP where it is asked for (RFC 7143 section 12).

use super::status::LoginStatus;
use crate::catalog::Authentication;
use crate::chap::{CHALLENGE_BYTES, ChapStep, Exchange};
use crate::text::{Pair, Text, list};
use ashlar_reactor::Reactor;

/// What an initiator has shown so far.
pub(super) struct Security {
    reactor: Reactor,
    secrets: Authentication,
    exchange: Option<Exchange>,
    /// A method was chosen.
    chosen: bool,
    proven: bool,
}

impl Security {
    pub(super) fn new(reactor: &Reactor, secrets: Authentication) -> Self {
        Self {
            reactor: reactor.clone(),
            secrets,
            exchange: None,
            chosen: false,
            proven: false,
        }
    }

    /// Whether the initiator has shown what it has to.
    pub(super) fn is_passed(&self) -> bool {
        self.proven || (self.secrets.initiator.is_empty() && self.exchange.is_none())
    }

    /// Whether the stage may be left, as the initiator wants if `wanted`.
    ///
    /// # Errors
    /// [`LoginStatus::AuthenticationFailure`]: it wants to without having begun.
    pub(super) fn may_go_on(&self, wanted: bool) -> Result<bool, LoginStatus> {
        if wanted && !self.is_passed() && !self.chosen {
            return Err(LoginStatus::AuthenticationFailure);
        }
        Ok(self.is_passed())
    }

    /// Acts on the keys of one request.
    ///
    /// # Errors
    /// [`LoginStatus`].
    pub(super) fn take(&mut self, keys: &[Pair<'_>], answer: &mut Text) -> Result<(), LoginStatus> {
        let mut proof = Vec::new();
        for &(key, value) in keys {
            match key {
                "AuthMethod" => self.choose(value, answer)?,
                _ if key.starts_with("CHAP_") => proof.push((key, value)),
                _ if key.starts_with("X-") => answer.put(key, "NotUnderstood"),
                // Section 6.3.2: nothing else is spoken of in this stage.
                _ => return Err(LoginStatus::InitiatorError),
            }
        }
        if proof.is_empty() {
            return Ok(());
        }
        let exchange = self
            .exchange
            .as_mut()
            .ok_or(LoginStatus::AuthenticationFailure)?;
        let step = exchange.step(&proof).map_err(|error| {
            tracing::warn!("iSCSI authentication failed: {error}");
            LoginStatus::AuthenticationFailure
        })?;
        match step {
            ChapStep::More(keys) => answer.append(keys),
            ChapStep::Proven(keys) => {
                answer.append(keys);
                self.proven = true;
            }
        }
        Ok(())
    }

    fn choose(&mut self, offered: &str, answer: &mut Text) -> Result<(), LoginStatus> {
        if std::mem::replace(&mut self.chosen, true) {
            return Err(LoginStatus::InitiatorError);
        }
        let wanted = if self.secrets.initiator.is_empty() {
            "None"
        } else {
            "CHAP"
        };
        if !list(offered).any(|method| method == wanted) {
            return Err(LoginStatus::AuthenticationFailure);
        }
        answer.put("AuthMethod", wanted);
        if wanted == "CHAP" {
            let challenge =
                (0..CHALLENGE_BYTES / 8).flat_map(|_| self.reactor.random_u64().to_be_bytes());
            let challenge = challenge.collect();
            let [identifier, ..] = self.reactor.random_u64().to_be_bytes();
            let exchange = Exchange::new(self.secrets.clone(), identifier, challenge);
            self.exchange = Some(exchange);
        }
        Ok(())
    }
}
