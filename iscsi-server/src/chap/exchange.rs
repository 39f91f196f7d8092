//! One exchange of CHAP within a login, from the choice of an algorithm to the proof.
//!
//! ```text
//! initiator                      target
//! CHAP_A=7,5                ──▶  picks
//!                           ◀──  CHAP_A=7 CHAP_I CHAP_C
//! CHAP_N CHAP_R             ──▶  proves itself
//! [CHAP_I CHAP_C]           ◀──  [CHAP_N CHAP_R]
//! ```

use super::{
    Algorithm, CHALLENGE_BYTES_MAX, CHALLENGE_BYTES_MIN, RESPONSE_BYTES_MAX, binary, is_same,
};
use crate::catalog::{Authentication, ChapSecret};
use crate::text::{self, Pair, Text};

/// Why an initiator is not let in. What it learns is that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChapError {
    /// It offers no algorithm that we have.
    #[error("initiator offers no CHAP algorithm that is known here")]
    NoAlgorithm,
    /// A key is missing, comes twice or has no value that it may have.
    #[error("initiator sent malformed CHAP keys")]
    Malformed,
    /// There is no such name, or it does not know the secret that goes with it.
    #[error("initiator does not know the secret of the name that it gave")]
    NotProven,
    /// It wants to see a proof and there is no secret for that.
    #[error("initiator asks for a proof and no secret of this target is set up")]
    NothingToShow,
    /// It wants our own challenge answered, or has us use its own secret.
    #[error("initiator reflects: it asked for what it was to prove itself")]
    Reflection,
}

/// What an exchange wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChapStep {
    /// These keys go out; more is to come.
    More(Text),
    /// The initiator is who it says; these keys go out.
    Proven(Text),
}

enum State {
    /// Nothing has been said.
    Beginning,
    /// The challenge is out.
    Challenged(Algorithm),
    Ended,
}

/// An exchange.
pub(crate) struct Exchange {
    secrets: Authentication,
    identifier: u8,
    challenge: Vec<u8>,
    state: State,
}

impl Exchange {
    /// With a fresh random challenge.
    pub(crate) fn new(secrets: Authentication, identifier: u8, challenge: Vec<u8>) -> Self {
        Self {
            secrets,
            identifier,
            challenge,
            state: State::Beginning,
        }
    }

    /// Acts on the CHAP keys of one login request.
    ///
    /// # Errors
    /// [`ChapError`]: the login has failed.
    pub(crate) fn step(&mut self, keys: &[Pair<'_>]) -> Result<ChapStep, ChapError> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Beginning => self.choose(keys),
            State::Challenged(algorithm) => self.prove(algorithm, keys),
            State::Ended => Err(ChapError::Malformed),
        }
    }

    fn choose(&mut self, keys: &[Pair<'_>]) -> Result<ChapStep, ChapError> {
        let [("CHAP_A", offered)] = keys else {
            return Err(ChapError::Malformed);
        };
        let mut offered = text::list(offered).filter_map(text::number);
        let algorithm = offered
            .find_map(Algorithm::of)
            .ok_or(ChapError::NoAlgorithm)?;
        let mut answer = Text::default();
        answer.put("CHAP_A", algorithm.number());
        answer.put("CHAP_I", &self.identifier.to_string());
        answer.put("CHAP_C", &binary::encode(&self.challenge));
        self.state = State::Challenged(algorithm);
        Ok(ChapStep::More(answer))
    }

    fn prove(&mut self, algorithm: Algorithm, keys: &[Pair<'_>]) -> Result<ChapStep, ChapError> {
        let name = single(keys, "CHAP_N")?.ok_or(ChapError::Malformed)?;
        let response = single(keys, "CHAP_R")?.ok_or(ChapError::Malformed)?;
        let response = binary::decode(response, RESPONSE_BYTES_MAX).ok_or(ChapError::Malformed)?;
        let wanted = match (single(keys, "CHAP_I")?, single(keys, "CHAP_C")?) {
            (None, None) => None,
            (Some(identifier), Some(challenge)) => Some(wanted_of(identifier, challenge)?),
            _ => return Err(ChapError::Malformed),
        };
        let expected_keys = if wanted.is_some() { 4 } else { 2 };
        if keys.len() != expected_keys {
            return Err(ChapError::Malformed);
        }
        let secret = self.proven_by(algorithm, name, &response)?;
        let mut answer = Text::default();
        if let Some((identifier, challenge)) = wanted {
            let ours = self
                .secrets
                .target
                .as_ref()
                .ok_or(ChapError::NothingToShow)?;
            if is_same(&challenge, &self.challenge) || is_same(&secret.secret, &ours.secret) {
                return Err(ChapError::Reflection);
            }
            let proof = algorithm.response(identifier, &ours.secret, &challenge);
            if is_same(&proof, &response) {
                return Err(ChapError::Reflection);
            }
            answer.put("CHAP_N", &ours.name);
            answer.put("CHAP_R", &binary::encode(&proof));
        }
        Ok(ChapStep::Proven(answer))
    }

    /// The secret that the response was made of.
    fn proven_by(
        &self,
        algorithm: Algorithm,
        name: &str,
        response: &[u8],
    ) -> Result<&ChapSecret, ChapError> {
        let mut named = self
            .secrets
            .initiator
            .iter()
            .filter(|secret| secret.name == name);
        named
            .find(|secret| {
                let expected = algorithm.response(self.identifier, &secret.secret, &self.challenge);
                is_same(&expected, response)
            })
            .ok_or(ChapError::NotProven)
    }
}

/// The identifier and the challenge that the initiator wants answered.
fn wanted_of(identifier: &str, challenge: &str) -> Result<(u8, Vec<u8>), ChapError> {
    let identifier = text::number(identifier).and_then(|number| u8::try_from(number).ok());
    let challenge = binary::decode(challenge, CHALLENGE_BYTES_MAX);
    match (identifier, challenge) {
        (Some(identifier), Some(challenge)) if challenge.len() >= CHALLENGE_BYTES_MIN => {
            Ok((identifier, challenge))
        }
        _ => Err(ChapError::Malformed),
    }
}

/// The value of a key that comes once at most.
fn single<'a>(keys: &[Pair<'a>], key: &str) -> Result<Option<&'a str>, ChapError> {
    let mut values = keys.iter().filter(|(name, _)| *name == key);
    let value = values.next().map(|&(_, value)| value);
    match values.next() {
        Some(_) => Err(ChapError::Malformed),
        None => Ok(value),
    }
}
