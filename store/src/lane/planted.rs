//! Broken rules, planted by tests to prove that the property test finds them.
//!
//! Each is one rule of the format left out. A build without tests has none: every check is a
//! constant `false`, but for those that the simulator can leave out ([`ashlar_proto::planted`]).

#[cfg(not(test))]
use ashlar_proto::planted::{Planted as Rule, is_planted};

/// One rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The scan of a segment ends at the first bad batch.
    StopAtTorn,
    /// A collected segment is opened again before any slot says that it is free.
    ReuseEarly,
    /// A slot is written before what it names was flushed.
    NoFlushBeforeSlot,
    /// A slot counts as durable before it was flushed.
    NoFlushAfterSlot,
    /// Zeroes are forgotten when they enter the overlay.
    ForgetZero,
    /// `from` is the next LSN whatever the overlay holds.
    HorizonAtSlot,
    /// A segment is reused as soon as the slot that frees it is durable.
    OneSlotReuse,
    /// Recovery serves without a flush and two slots.
    NoRecoveryFlush,
    /// A read in flight does not hold its segment.
    NoPin,
    /// New LSNs start right above the highest seen.
    LsnReuse,
    /// Victims may lie above the durable `from`.
    CollectInWindow,
    /// Deltas above `durable` are folded.
    FoldUndurable,
    /// Segments of all lives carry the same nonce.
    NoNonce,
    /// `from` does not count batches in flight.
    SlotMissesInflight,
    /// A slot does not record gaps.
    NoGaps,
    /// At equal seq the earlier one wins.
    TieEarly,
    /// A victim is free before its moves have completed.
    FreeBeforeMovesDone,
    /// A segment's header is written beside its first batch, which does not make up for it.
    HeaderInFlight,
    /// Strata stay as they were made when leaves are folded.
    StrataStay,
}

/// Which rules are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planted(#[cfg(test)] pub(crate) u32);

impl Planted {
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(0);
    #[cfg(not(test))]
    pub(crate) const NONE: Self = Self();

    /// With one rule left out.
    #[cfg(test)]
    pub(crate) const fn one(bug: Bug) -> Self {
        Self(1 << bug as u32)
    }

    /// Whether this rule is left out.
    #[cfg(test)]
    pub(crate) const fn has(self, bug: Bug) -> bool {
        self.0 & (1 << bug as u32) != 0
    }

    /// Whether this rule is left out: never, unless the simulator does so.
    #[cfg(not(test))]
    pub(crate) fn has(self, bug: Bug) -> bool {
        match bug {
            Bug::FreeBeforeMovesDone => is_planted(Rule::CollectorFreesLive),
            Bug::NoFlushBeforeSlot => is_planted(Rule::CheckpointTooEarly),
            Bug::ForgetZero => is_planted(Rule::TrimBaresParent),
            _ => false,
        }
    }
}
