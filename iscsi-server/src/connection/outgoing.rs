//! What goes out: PDUs with the numbers of the moment, gathered, and sent together.

use super::Connection;
use crate::catalog::TargetCatalog;
use crate::framing::{Segment, put_pdu};
use crate::pdu::{Bhs, RejectReason, Response, Sequence};
use ashlar_front_end::{Transport, TransportError};
use std::future::poll_fn;
use std::task::Poll;

impl<C: TargetCatalog> Connection<'_, C> {
    /// Whether all that was put was sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.outbox.borrow().is_empty() && !self.sending.get()
    }

    /// Sends what there is to send, as it comes.
    pub(super) async fn write(&self, transport: &Transport) -> Result<(), TransportError> {
        loop {
            // The task polls this again after every change: no waker is needed.
            poll_fn(|_| match self.outbox.borrow().is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            })
            .await;
            self.send(transport).await?;
        }
    }

    async fn send(&self, transport: &Transport) -> Result<(), TransportError> {
        let (pieces, done) = self.outbox.borrow_mut().take();
        self.sending.set(true);
        let sent = self.transfer(transport.send(pieces)).await;
        self.sending.set(false);
        self.ration.give_back(done.bytes);
        if self.outbox.borrow().is_empty() {
            self.chatter.set(0);
        }
        self.changed();
        sent
    }

    /// Sends what is left. A send that was under way has been abandoned: nothing may follow it.
    pub(super) async fn flush(&self, transport: &Transport) {
        if self.sending.get() {
            return;
        }
        while !self.outbox.borrow().is_empty() {
            if self.send(transport).await.is_err() {
                return;
            }
        }
    }

    /// Puts a PDU, with the numbers of the moment.
    pub(super) fn say(&self, response: &Response, data: &Segment<'_>) {
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        let stat_sn = self.stat_sn.get();
        let bhs = response.bhs(Sequence {
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
        });
        if response.takes_stat_sn() {
            self.stat_sn.set(stat_sn.wrapping_add(1));
        }
        let mut outbox = self.outbox.borrow_mut();
        put_pdu(&mut outbox, &self.parameters.get(), bhs, data);
        let bytes = match data {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Shared(_) => 0,
        };
        self.chatter.set(self.chatter.get() + bhs.len() + bytes);
        drop(outbox);
        self.changed();
    }

    /// Refuses a PDU; its header goes back.
    pub(super) fn reject(&self, reason: RejectReason, bhs: &Bhs) {
        let (initiator, target) = (&self.session.nexus.initiator, &self.session.nexus.target);
        tracing::debug!(
            initiator,
            target,
            ?reason,
            opcode = bhs[0] & 0x3f,
            "iSCSI PDU rejected"
        );
        self.say(&Response::Reject(reason), &Segment::Bytes(bhs));
    }
}
