//! Rules that can be left out on purpose, to prove that the simulator would notice.
//!
//! With the feature `planted`, which only the simulator turns on, a thread can leave one of them out
//! ([`plant`]). Without it [`is_planted`] is a constant `false`, and nothing of this is in the code.

/// One rule left out, of an owner, of a store or of a conductor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// What was read is shown without a lease.
    NoLease,
    /// Answers of replicas that are in no set count towards acknowledgements.
    CountNonMembers,
    /// While a change of the set is proposed, the new set alone acknowledges.
    CountProposedOnly,
    /// A take-over makes no tails equal.
    NoReconcile,
    /// A take-over copies the lower of two seqs.
    ReconcileLower,
    /// A take-over uses the window of the owner before it.
    ReuseWindow,
    /// A take-over is content with one answer less.
    TooFewAnswers,
    /// A flush is answered before anything is durable.
    FlushEarly,
    /// What a replica lost in a restart still counts as accepted there.
    CountAfterRestart,
    /// A version that is not acknowledged is shown.
    ShowUnacknowledged,
    /// A replica that lags is read all the same.
    ReadLagging,
    /// Requests to the same blocks are sent without waiting for each other.
    NoOverlapOrder,
    /// Replicas are told that everything is stable.
    StableTooFar,
    /// A set is proposed whose replicas do not hold every acknowledged write.
    ProposeIncomplete,
    /// A replica is taken in before it has fetched what it lacks.
    JoinWithoutPull,
    /// Orphans are left where they are.
    NoBurial,
    /// A store answers requests of any generation.
    NoFence,
    /// A store does not make the generation durable.
    ForgetGeneration,
    /// A store answers a flush and makes nothing durable.
    FlushNothing,
    /// A store leaves out every other entry of a tail.
    ShortTail,
    /// A store keeps its incarnation over a restart.
    SameIncarnation,
    /// Neither store nor owner compares checksums with what was read.
    NoChecksums,
    /// A segment is free before its live blocks have moved.
    CollectorFreesLive,
    /// A checkpoint's slot is written before what it names is durable.
    CheckpointTooEarly,
    /// A conductor grants a generation before that is durable.
    GrantEarly,
    /// A conductor commits a proposal of any epoch.
    AnyEpoch,
    /// A conductor commits a proposal of any generation.
    AnyGeneration,
    /// A conductor replaces a replica that is in sync, too, once it has been away for long.
    ReplaceInSync,
    /// A conductor drops a replica that is to leave before its successor is in sync.
    DropLeaving,
    /// The conductor's metadata are not durable when a commit is answered.
    ForgetCommits,
    /// A snapshot is ready once its writes are acknowledged, stable or not.
    SnapshotReadyEarly,
    /// An owner goes on to stamp writes with a layer that it knows to be sealed.
    SealForgotten,
    /// A write that is sent again carries the newest layer, not its own.
    ResendAtHead,
    /// The collector keeps only what the head shows.
    CollectorForgetsSnapshots,
    /// Where intervals are joined, the version of the lower label wins.
    MergeLower,
    /// A trim forgets the block in its layer, so that the layer below shows.
    TrimBaresParent,
    /// A checkpoint leaves out the root pages of sealed layers.
    CheckpointForgetsLayer,
    /// A conductor that leads writes without its term: its write counts when it leads no more.
    WriteUnfenced,
    /// A conductor calls a snapshot of a volume that was not detached cleanly ready.
    SnapshotUnsettled,
    /// A conductor goes back without raising the generation.
    RollbackUnfenced,
    /// A flatten copies the origin's data over what was written to the clone.
    FlattenOverWrites,
    /// A conductor deletes a snapshot that has clones.
    DeleteOrigin,
    /// An owner whose hold has ended before it learned of the seal says that it kept still.
    HoldBrokenKept,
    /// An owner says that it holds, and goes on.
    HoldForgotten,
    /// A conductor calls a group of snapshots good without asking whether its owners kept still.
    GroupUnconfirmed,
}

impl Planted {
    /// All that are found in a cluster with one volume and its clones.
    pub const ALL: [Self; 42] = [
        Self::NoLease,
        Self::CountNonMembers,
        Self::CountProposedOnly,
        Self::NoReconcile,
        Self::ReconcileLower,
        Self::ReuseWindow,
        Self::TooFewAnswers,
        Self::FlushEarly,
        Self::CountAfterRestart,
        Self::ShowUnacknowledged,
        Self::ReadLagging,
        Self::NoOverlapOrder,
        Self::StableTooFar,
        Self::ProposeIncomplete,
        Self::JoinWithoutPull,
        Self::NoBurial,
        Self::NoFence,
        Self::ForgetGeneration,
        Self::FlushNothing,
        Self::ShortTail,
        Self::SameIncarnation,
        Self::NoChecksums,
        Self::CollectorFreesLive,
        Self::CheckpointTooEarly,
        Self::GrantEarly,
        Self::AnyEpoch,
        Self::AnyGeneration,
        Self::ReplaceInSync,
        Self::DropLeaving,
        Self::ForgetCommits,
        Self::SnapshotReadyEarly,
        Self::SealForgotten,
        Self::ResendAtHead,
        Self::CollectorForgetsSnapshots,
        Self::MergeLower,
        Self::TrimBaresParent,
        Self::CheckpointForgetsLayer,
        Self::SnapshotUnsettled,
        Self::RollbackUnfenced,
        Self::FlattenOverWrites,
        Self::DeleteOrigin,
        Self::WriteUnfenced,
    ];

    /// Those of groups of snapshots, for which it takes more than one volume.
    pub const OF_GROUPS: [Self; 3] = [
        Self::HoldBrokenKept,
        Self::HoldForgotten,
        Self::GroupUnconfirmed,
    ];
}

impl Planted {
    /// Whether it is a rule of a conductor or of its metadata.
    #[must_use]
    pub const fn is_of_conductor(self) -> bool {
        matches!(
            self,
            Self::GrantEarly
                | Self::AnyEpoch
                | Self::AnyGeneration
                | Self::ReplaceInSync
                | Self::DropLeaving
                | Self::ForgetCommits
                | Self::WriteUnfenced
                | Self::SnapshotUnsettled
                | Self::RollbackUnfenced
        )
    }
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

/// Leaves a rule out on this thread from now on, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}

/// Whether this rule is left out.
#[cfg(feature = "planted")]
#[must_use]
pub fn is_planted(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this rule is left out: never.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is_planted(_bug: Planted) -> bool {
    false
}
