//! A byte stream between two tasks of one reactor: pieces pass by pointer.

use crate::local::LocalChannel;
use crate::{Buffer, NetError, SharedBuffer};
use std::cell::{Cell, RefCell};

/// One end.
pub(super) struct Pipe {
    channel: LocalChannel<SharedBuffer>,
    /// What is left of a piece that did not fit into the last buffer.
    rest: RefCell<Option<SharedBuffer>>,
    shut: Cell<bool>,
}

impl Pipe {
    pub(super) fn over(channel: LocalChannel<SharedBuffer>) -> Self {
        Self {
            channel,
            rest: RefCell::new(None),
            shut: Cell::new(false),
        }
    }

    pub(super) async fn recv(
        &self,
        mut buffer: Buffer,
        from: usize,
    ) -> (Buffer, Result<usize, NetError>) {
        let rest = self.rest.take();
        let piece = match rest {
            Some(piece) => Some(piece),
            None => self.channel.receiver.recv().await,
        };
        if self.shut.get() {
            return (buffer, Err(NetError::Shutdown));
        }
        let mut at = from;
        let mut next = piece;
        while let Some(piece) = next {
            let len = piece.len().min(buffer.len() - at);
            buffer[at..at + len].copy_from_slice(&piece[..len]);
            at += len;
            if len < piece.len() {
                *self.rest.borrow_mut() = Some(piece.slice(len..));
                break;
            }
            next = self.channel.receiver.try_recv();
        }
        (buffer, Ok(at - from))
    }

    pub(super) async fn send(&self, buffers: Vec<SharedBuffer>) -> Result<(), NetError> {
        for buffer in buffers {
            if self.shut.get() {
                return Err(NetError::Shutdown);
            }
            if buffer.is_empty() {
                continue; // an empty piece would look like the end
            }
            if self.channel.sender.send(buffer).await.is_err() {
                return Err(if self.shut.get() {
                    NetError::Shutdown
                } else {
                    NetError::Reset
                });
            }
        }
        Ok(())
    }

    pub(super) fn shutdown(&self) {
        self.shut.set(true);
        self.channel.sender.close();
        self.channel.receiver.close();
    }
}
