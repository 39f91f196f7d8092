//! `SendTargets` and the exchange of texts that it takes (RFC 7143 section 6.2, appendix C), and
//! discovery sessions.

mod session;

pub(crate) use session::discover;

use crate::catalog::{Access, Portal, ServerIdentity, TargetCatalog, TargetInfo};
use crate::login::negotiation::segment_length;
use crate::login::normal_name;
use crate::pdu::{NO_TAG, TextRequest};
use crate::sessions::Registry;
use crate::text::{self, Text};

/// Longest text that is gathered from requests, in bytes.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// Why a text request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextFault {
    /// It breaks the rules of texts, or goes on where nothing was begun.
    Protocol,
    /// The catalog cannot tell now.
    Unavailable,
}

/// Who asks, and where.
pub(crate) struct Asking<'a> {
    /// Normalised.
    pub(crate) initiator: &'a str,
    /// Of a normal session.
    pub(crate) target: Option<&'a str>,
    /// The portal that it came to.
    pub(crate) portal: &'a str,
}

/// The answer to the keys of a text request.
///
/// # Errors
/// [`TextFault`].
pub(crate) async fn answer<C: TargetCatalog>(
    registry: &Registry<C>,
    asking: &Asking<'_>,
    keys: &[u8],
) -> Result<Vec<u8>, TextFault> {
    let mut answer = Text::default();
    for (key, value) in text::parse(keys).map_err(|_| TextFault::Protocol)? {
        match key {
            "SendTargets" => send_targets(registry, asking, value, &mut answer).await?,
            // The caller acts on it: section 13.12 lets it change at any time.
            "MaxRecvDataSegmentLength" if segment_length(value).is_some() => {}
            "MaxRecvDataSegmentLength" => answer.put(key, "Reject"),
            "InitiatorAlias" => {}
            _ => answer.put(key, "NotUnderstood"),
        }
    }
    Ok(answer.into_bytes())
}

/// The segment length that a text request declares.
pub(crate) fn declared_segment(keys: &[u8]) -> Option<usize> {
    let keys = text::parse(keys).ok()?;
    let mut declared = keys
        .iter()
        .filter(|(key, _)| *key == "MaxRecvDataSegmentLength");
    declared.next().and_then(|(_, value)| segment_length(value))
}

async fn send_targets<C: TargetCatalog>(
    registry: &Registry<C>,
    asking: &Asking<'_>,
    value: &str,
    answer: &mut Text,
) -> Result<(), TextFault> {
    // Appendix C: all in discovery sessions only, nothing means the target of the session.
    let wanted = match (value, asking.target) {
        ("All", None) => None,
        ("", Some(target)) => Some(target.to_owned()),
        ("All", Some(_)) | ("", None) => {
            answer.put("SendTargets", "Reject");
            return Ok(());
        }
        (name, _) => match normal_name(name) {
            Some(name) => Some(name),
            None => return Ok(()),
        },
    };
    let targets = registry.catalog.targets(asking.initiator).await;
    let targets = targets.map_err(|error| {
        tracing::warn!(
            initiator = asking.initiator,
            "targets cannot be listed: {error}"
        );
        TextFault::Unavailable
    })?;
    let shown = targets.iter().filter(|target| {
        let is_wanted = wanted.as_ref().is_none_or(|wanted| *wanted == target.name);
        is_wanted && target.access != Access::Denied
    });
    let server = registry.catalog.server(asking.portal).await;
    let portals = match server.map_err(|_| TextFault::Unavailable)? {
        ServerIdentity::Member { portals, .. } => portals,
        ServerIdentity::Alone => registry.options.portals.clone(),
    };
    for target in shown {
        put_target(answer, target, &portals, asking.portal);
    }
    Ok(())
}

fn put_target(answer: &mut Text, target: &TargetInfo, portals: &[Portal], own: &str) {
    answer.put("TargetName", &target.name);
    if portals.is_empty() {
        answer.put("TargetAddress", &format!("{own},{PORTAL_GROUP}"));
    }
    for portal in portals {
        answer.put(
            "TargetAddress",
            &format!("{},{}", portal.address, portal.group),
        );
    }
}

/// The portal group of a server that is told of no portals.
pub(crate) const PORTAL_GROUP: u16 = 1;

/// What to do with a text request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TextStep {
    /// More of it is to come: ask for it with this tag.
    Ask(u32),
    /// It is whole: answer it.
    Answer(Vec<u8>),
    /// Send on from the answer that was begun.
    SendOn,
}

/// A piece of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TextPiece {
    pub(crate) bytes: Vec<u8>,
    /// Of the next piece, or [`NO_TAG`].
    pub(crate) ttt: u32,
}

/// The exchange of one text that may take several PDUs each way. There is one at a time on a
/// connection (section 11.10).
#[derive(Debug, Default)]
pub(crate) struct TextExchange {
    itt: u32,
    /// What the initiator has to show to go on.
    ttt: Option<u32>,
    gathered: Vec<u8>,
    /// What is still to be sent.
    answer: Vec<u8>,
}

impl TextExchange {
    /// Takes a request in; `ttt` is a fresh tag, should one be needed.
    ///
    /// # Errors
    /// [`TextFault::Protocol`]: the exchange is over.
    pub(crate) fn take(
        &mut self,
        request: &TextRequest,
        data: &[u8],
        ttt: u32,
    ) -> Result<TextStep, TextFault> {
        if request.ttt == NO_TAG {
            // Section 11.10.4: it begins anew, whatever was before.
            *self = Self {
                itt: request.itt,
                ..Self::default()
            };
        } else if self.ttt != Some(request.ttt) || self.itt != request.itt {
            *self = Self::default();
            return Err(TextFault::Protocol);
        }
        self.ttt = None;
        if !self.answer.is_empty() {
            return Ok(TextStep::SendOn);
        }
        if self.gathered.len() + data.len() > GATHERED_BYTES_MAX {
            *self = Self::default();
            return Err(TextFault::Protocol);
        }
        self.gathered.extend_from_slice(data);
        if request.continues {
            self.ttt = Some(ttt);
            return Ok(TextStep::Ask(ttt));
        }
        Ok(TextStep::Answer(std::mem::take(&mut self.gathered)))
    }

    /// Has an answer sent, piece by piece.
    pub(crate) fn begin(&mut self, answer: Vec<u8>) {
        self.answer = answer;
    }

    /// The next piece, of at most `len` bytes.
    pub(crate) fn piece(&mut self, len: usize, ttt: u32) -> TextPiece {
        let rest = self.answer.split_off(len.min(self.answer.len()));
        let bytes = std::mem::replace(&mut self.answer, rest);
        let more = !self.answer.is_empty();
        self.ttt = more.then_some(ttt);
        TextPiece {
            bytes,
            ttt: self.ttt.unwrap_or(NO_TAG),
        }
    }
}

#[cfg(test)]
mod tests;
