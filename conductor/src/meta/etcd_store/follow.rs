//! Following: one watch of all keys of the cluster, for ever, on whichever member serves it.
//!
//! A member that falls silent is given up with whoever else finds that it does not answer
//! ([`super::link::Link::avoided`]), by the connection's own keep-alive, or by who waits for a commit to
//! come by (`kick`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::mpsc;

use super::error::Fault;
use super::shared::Shared;
use super::wire::{WatchCreateRequest, WatchDeed, WatchRequest, WatchResponse};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// The pause after a watch that ended.
const PAUSE: Duration = Duration::from_millis(100);

/// What is sent on a stream, as it comes; the stream stays open until the sender is dropped.
pub(super) struct Questions<T>(pub(super) mpsc::Receiver<T>);

impl<T> Stream for Questions<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

/// Feeds the log until it is dropped.
pub(super) async fn follow(shared: Arc<Shared>) {
    loop {
        match watch(&shared).await {
            Ok(()) => {}
            Err(Fault::Login) => shared.link.forget_login(),
            Err(fault) => tracing::debug!(?fault, "the watch of etcd has ended: opening another"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch(shared: &Shared) -> Result<(), Fault> {
    let (key, range_end) = shared.keys.all();
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision: shared.next(),
        prev_kv: true,
    };
    let (send, questions) = mpsc::channel(1);
    let deed = Some(WatchDeed::Create(create));
    let _ = send.try_send(WatchRequest { deed });
    let (member, mut answers) = shared
        .link
        .stream::<WatchRequest, WatchResponse, _>(WATCH, Questions(questions))
        .await?;
    loop {
        let message = tokio::select! {
            message = answers.message() => message,
            () = shared.kick.notified() => {
                shared.link.avoid(member);
                return Ok(());
            }
            () = shared.link.avoided(member) => return Ok(()),
        };
        let Some(response) = message.inspect_err(|_| shared.link.avoid(member))? else {
            shared.link.avoid(member);
            return Ok(());
        };
        if response.compact_revision > 0 {
            tracing::info!(
                revision = response.compact_revision,
                "etcd has compacted what was to be followed next: beginning behind it"
            );
            return shared.begin_after(response.compact_revision).await;
        }
        if response.canceled {
            if response.cancel_reason.contains("auth")
                || response.cancel_reason.contains("permission")
            {
                return Err(Fault::Login);
            }
            shared.link.avoid(member);
            return Err(Fault::Elsewhere(response.cancel_reason));
        }
        shared.take(response.events);
    }
}
