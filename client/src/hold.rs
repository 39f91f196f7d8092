//! The hold of a volume: while snapshots of several volumes are made as one group, its owner gives no
//! write a seq.
//!
//! ```text
//!  Free ── told of a hold ──▶ Held ── told of the seal ──▶ Ended, kept: writes carry the next layer
//!                               └─ patience over, or told otherwise ──▶ Ended, broken
//! ```
//!
//! Invariants: the hold begins in the turn in which the conductor's word is taken in, before anybody is
//! told of it; it is kept only if the layer that writes carry has changed in the turn in which it ends;
//! a group is held for once. Reads, flushes and acknowledgements go on. The conductor's word only ends
//! a hold early: how long it lasts at most is measured here, from its beginning.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::api::{HoldAnswer, HoldOutcome, HoldWord, ReportHold, VolumeHold};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{GroupId, Layer};
use ashlar_reactor::Instant;
use ashlar_reactor::future::{Either, race};

use crate::signal::Signal;
use crate::source::SourceError;
use crate::volume::{Core, Phase};

/// The pause before a conductor that does not answer is told again.
const PAUSE: Duration = Duration::from_millis(20);

/// How often it is told at most what became of a hold: by then it has given the group up.
const TRIES_MAX: u32 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Held {
        group: GroupId,
        until: Instant,
        /// What writes carried when it began.
        layer: Layer,
    },
    /// The conductor has yet to be told.
    Ended {
        group: GroupId,
        word: HoldWord,
    },
}

/// See the module.
pub(crate) struct Hold {
    state: Cell<State>,
    /// The last group that was held for.
    last: Cell<GroupId>,
    /// Raised when the state has changed.
    news: Signal,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            state: Cell::new(State::Free),
            last: Cell::default(),
            news: Signal::default(),
        }
    }
}

impl Hold {
    /// Whether no write may be given a seq.
    pub(crate) fn is_held(&self, now: Instant) -> bool {
        match self.state.get() {
            State::Held { .. } if is_planted(Planted::HoldForgotten) => false,
            State::Held { until, .. } => now < until || !is_planted(Planted::HoldBrokenKept),
            State::Free | State::Ended { .. } => false,
        }
    }

    /// Wakes the task that looks after it.
    pub(crate) fn raise(&self) {
        self.news.raise();
    }

    fn set(&self, state: State) {
        self.state.set(state);
        self.news.raise();
    }
}

/// Takes in what the conductor's map says of a hold, after what it says of layers.
pub(crate) fn note(core: &Core, told: Option<VolumeHold>) {
    let hold = &core.hold;
    if let State::Held { group, .. } = hold.state.get() {
        match told {
            Some(told) if told.group == group && told.sealed.is_none() => return,
            Some(told) if told.group == group => end(core, true),
            _ => end(core, false),
        }
    }
    if let Some(VolumeHold { group, sealed }) = told
        && group > hold.last.get()
        && core.phase.get() == Phase::Serving
    {
        hold.last.set(group);
        if sealed.is_some() {
            let word = HoldWord::Broken;
            hold.set(State::Ended { group, word });
            return;
        }
        core.layers.begin(core);
        let until = core.reactor.now() + core.options.hold_max;
        let layer = core.layers.head();
        hold.set(State::Held {
            group,
            until,
            layer,
        });
        tracing::info!(volume = %core.name, %group, "writes are held back");
    }
}

/// Ends the hold: writes go on, in the next layer if it is sealed.
fn end(core: &Core, is_sealed: bool) {
    let State::Held { group, layer, .. } = core.hold.state.get() else {
        return;
    };
    if is_sealed {
        core.layers.begin(core);
    }
    let is_kept = is_sealed && core.layers.head() > layer;
    let word = if is_kept {
        HoldWord::Kept
    } else {
        HoldWord::Broken
    };
    core.hold.set(State::Ended { group, word });
    core.progress.raise();
    tracing::info!(volume = %core.name, %group, ?word, "writes go on");
}

/// Looks after the holds of a volume for as long as it is attached.
pub(crate) async fn run(core: Weak<Core>) {
    let mut tries = 0;
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let (reactor, hold) = (strong.reactor.clone(), Rc::clone(&strong.hold));
        let moment = hold.news.moment();
        let state = hold.state.get();
        let now = reactor.now();
        let (group, word, patience) = match state {
            State::Free => {
                drop(strong);
                hold.news.raised_since(moment).await;
                tries = 0;
                continue;
            }
            State::Held { until, .. } if now >= until => {
                if is_planted(Planted::HoldBrokenKept) {
                    strong.progress.raise();
                    drop(strong);
                    hold.news.raised_since(moment).await;
                } else {
                    end(&strong, false);
                }
                continue;
            }
            State::Held { group, until, .. } => (group, HoldWord::Held, until - now),
            State::Ended { group, word } => (group, word, strong.options.io_timeout),
        };
        let (source, name) = (Rc::clone(&strong.source), strong.name.clone());
        let report = ReportHold {
            volume: strong.id,
            generation: strong.generation,
            group,
            word,
        };
        // The wait is long: an owner that is dropped meanwhile is not held.
        drop(strong);
        let asked = race(
            source.report_hold(&name, &report),
            hold.news.raised_since(moment),
        );
        let answer = match reactor.timeout(patience, asked).await {
            Ok(Either::First(answer)) => answer,
            Ok(Either::Second(())) | Err(_) => continue,
        };
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        if hold.state.get() != state {
            continue;
        }
        let is_taken = take(&strong, answer);
        tries += 1;
        if matches!(state, State::Ended { .. }) && (is_taken || tries >= TRIES_MAX) {
            hold.set(State::Free);
        } else if !is_taken {
            drop(strong);
            let news = hold.news.raised_since(moment);
            let _elapsed = reactor.timeout(PAUSE.min(patience), news).await;
        }
    }
}

/// Takes in an answer to what the state says; whether there was one.
fn take(core: &Core, answer: Result<HoldAnswer, SourceError>) -> bool {
    match answer {
        Ok(HoldAnswer {
            outcome,
            head_layer,
        }) => match outcome {
            HoldOutcome::Waiting => false,
            HoldOutcome::Sealed => {
                core.layers.hear(head_layer);
                end(core, true);
                true
            }
            HoldOutcome::Over => {
                end(core, false);
                true
            }
        },
        Err(SourceError::Superseded | SourceError::NotFound) => {
            core.fence();
            true
        }
        Err(SourceError::Unreachable) => false,
        Err(error) => {
            tracing::info!(volume = %core.name, %error, "the conductor has ended a hold");
            end(core, false);
            true
        }
    }
}
