//! The negotiation of operational keys, by the table of RFC 7143 section 13. Pure.
//!
//! Invariants: each key is negotiated once in a login; a value that a key cannot have is answered
//! with `Reject` and changes nothing; the answer to a proposal is what holds from then on.

use crate::parameters::{
    BURST_MAX, CONNECTIONS_MAX, ConnectionParameters, FIRST_BURST_MAX, OUTSTANDING_R2T_MAX,
    PROTOCOL_LEVEL, RECEIVE_SEGMENT_MAX, SessionParameters,
};
use crate::text::{Text, boolean, list, number, yes_no};

/// Bounds of a segment's or a burst's length (sections 13.12 to 13.14).
const LENGTH_MIN: u64 = 512;
const LENGTH_MAX: u64 = BURST_MAX as u64;

/// The same key a second time: the login ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key was negotiated twice")]
pub(crate) struct Repeated;

/// Where keys are negotiated, which decides which ones may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scene {
    /// Of a discovery session.
    pub(crate) discovery: bool,
    /// The first connection of its session.
    pub(crate) leading: bool,
}

/// What came of a key.
enum Reply {
    Value(String),
    /// It only declared something.
    Taken,
    Rejected,
    Irrelevant,
    NotUnderstood,
}

/// A negotiation under way.
#[derive(Debug)]
pub(crate) struct Negotiation {
    scene: Scene,
    pub(crate) session: SessionParameters,
    pub(crate) connection: ConnectionParameters,
    seen: Vec<String>,
    /// Whether our own declarations were sent.
    declared: bool,
}

impl Negotiation {
    pub(crate) fn new(scene: Scene) -> Self {
        Self {
            scene,
            session: SessionParameters::default(),
            connection: ConnectionParameters::default(),
            seen: Vec::new(),
            declared: false,
        }
    }

    /// Acts on a key and puts the answer to it.
    ///
    /// # Errors
    /// [`Repeated`].
    pub(crate) fn take(
        &mut self,
        key: &str,
        value: &str,
        answer: &mut Text,
    ) -> Result<(), Repeated> {
        if self.seen.iter().any(|seen| seen == key) {
            return Err(Repeated);
        }
        self.seen.push(key.to_owned());
        match self.reply(key, value) {
            Reply::Value(value) => answer.put(key, &value),
            Reply::Taken => {}
            Reply::Rejected => answer.put(key, "Reject"),
            Reply::Irrelevant => answer.put(key, "Irrelevant"),
            Reply::NotUnderstood => answer.put(key, "NotUnderstood"),
        }
        Ok(())
    }

    /// Puts what the target declares by itself, once.
    pub(crate) fn declare(&mut self, answer: &mut Text) {
        if !std::mem::replace(&mut self.declared, true) {
            answer.put("MaxRecvDataSegmentLength", &RECEIVE_SEGMENT_MAX.to_string());
        }
    }

    /// What was negotiated, consistent in itself.
    pub(crate) fn finish(mut self) -> (SessionParameters, ConnectionParameters) {
        let session = &mut self.session;
        session.first_burst_max = session.first_burst_max.min(session.burst_max);
        (self.session, self.connection)
    }

    fn reply(&mut self, key: &str, value: &str) -> Reply {
        match key {
            "HeaderDigest" | "DataDigest" => self.digest(key, value),
            "MaxRecvDataSegmentLength" => self.segment(value),
            "IFMarker" | "OFMarker" => Reply::Value("No".into()),
            "IFMarkInt" | "OFMarkInt" => Reply::Rejected,
            // Answered, they would be taken for the initiator's to answer.
            "InitiatorAlias" => Reply::Taken,
            "DefaultTime2Wait" | "DefaultTime2Retain" | "ErrorRecoveryLevel"
                if !self.scene.leading =>
            {
                Reply::Rejected
            }
            // We keep nothing of a session that lost its connections, so there is nothing to wait for.
            "DefaultTime2Wait" => numeric(value, 0, 3600, |offered| offered),
            "DefaultTime2Retain" => numeric(value, 0, 3600, |_| 0),
            "ErrorRecoveryLevel" => numeric(value, 0, 2, |_| 0),
            _ => self.of_normal_sessions(key, value),
        }
    }

    /// Keys of the leading connection of a normal session.
    fn of_normal_sessions(&mut self, key: &str, value: &str) -> Reply {
        const KEYS: [&str; 10] = [
            "MaxConnections",
            "InitialR2T",
            "ImmediateData",
            "MaxBurstLength",
            "FirstBurstLength",
            "MaxOutstandingR2T",
            "DataPDUInOrder",
            "DataSequenceInOrder",
            "TaskReporting",
            "iSCSIProtocolLevel",
        ];
        if !KEYS.contains(&key) {
            return Reply::NotUnderstood;
        }
        if self.scene.discovery {
            return Reply::Irrelevant;
        }
        if !self.scene.leading {
            return Reply::Rejected;
        }
        let session = &mut self.session;
        match key {
            "MaxConnections" => agree(value, 1, &mut session.connections_max, CONNECTIONS_MAX),
            "InitialR2T" => decide(value, |offered| {
                session.initial_r2t = offered;
                offered
            }),
            "ImmediateData" => decide(value, |offered| {
                session.immediate_data = offered;
                offered
            }),
            "MaxBurstLength" => length(value, BURST_MAX, |agreed| session.burst_max = agreed),
            "FirstBurstLength" if session.initial_r2t_only() => Reply::Irrelevant,
            "FirstBurstLength" => length(value, FIRST_BURST_MAX, |agreed| {
                session.first_burst_max = agreed
            }),
            "MaxOutstandingR2T" => agree(
                value,
                1,
                &mut session.outstanding_r2t_max,
                OUTSTANDING_R2T_MAX,
            ),
            // We want data in order, and send it so.
            "DataPDUInOrder" | "DataSequenceInOrder" => decide(value, |_| true),
            "TaskReporting" => choose(value, &["RFC3720"]),
            _ => numeric(value, 0, 31, |offered| {
                let agreed = offered.min(PROTOCOL_LEVEL.into());
                session.protocol_level = u8::try_from(agreed).unwrap_or(1);
                agreed
            }),
        }
    }

    fn digest(&mut self, key: &str, value: &str) -> Reply {
        let reply = choose(value, &["CRC32C", "None"]);
        if let Reply::Value(chosen) = &reply {
            let used = chosen == "CRC32C";
            match key {
                "HeaderDigest" => self.connection.header_digest = used,
                _ => self.connection.data_digest = used,
            }
        }
        reply
    }

    fn segment(&mut self, value: &str) -> Reply {
        match segment_length(value) {
            Some(len) => {
                self.connection.send_segment_max = len;
                Reply::Taken
            }
            None => Reply::Rejected,
        }
    }
}

impl SessionParameters {
    /// Whether there is no unsolicited data at all.
    fn initial_r2t_only(&self) -> bool {
        self.initial_r2t && !self.immediate_data
    }
}

/// A declared `MaxRecvDataSegmentLength`.
pub(crate) fn segment_length(value: &str) -> Option<usize> {
    let len = number(value).filter(|len| (LENGTH_MIN..=LENGTH_MAX).contains(len))?;
    usize::try_from(len).ok()
}

fn numeric(value: &str, min: u64, max: u64, agree: impl FnOnce(u64) -> u64) -> Reply {
    match number(value) {
        Some(offered) if (min..=max).contains(&offered) => Reply::Value(agree(offered).to_string()),
        _ => Reply::Rejected,
    }
}

/// The lesser of what both want.
fn agree(value: &str, min: u64, agreed: &mut u16, ours: u16) -> Reply {
    numeric(value, min, u16::MAX.into(), |offered| {
        *agreed = u16::try_from(offered).unwrap_or(u16::MAX).min(ours);
        u64::from(*agreed)
    })
}

fn length(value: &str, ours: u32, agreed: impl FnOnce(u32)) -> Reply {
    numeric(value, LENGTH_MIN, LENGTH_MAX, |offered| {
        let least = u32::try_from(offered).unwrap_or(ours).min(ours);
        agreed(least);
        u64::from(least)
    })
}

fn decide(value: &str, agree: impl FnOnce(bool) -> bool) -> Reply {
    match boolean(value) {
        Some(offered) => Reply::Value(yes_no(agree(offered)).into()),
        None => Reply::Rejected,
    }
}

/// The first of the initiator's list that we have.
fn choose(value: &str, ours: &[&str]) -> Reply {
    match list(value).find(|offered| ours.contains(offered)) {
        Some(chosen) => Reply::Value(chosen.into()),
        None => Reply::Rejected,
    }
}

#[cfg(test)]
mod tests;
