//! What a client sends, buffered: many small messages come with one receive, a long payload goes
//! straight into the buffer that the device gets.
//!
//! The receive buffer grows while receives fill it and shrinks while they do not, so that an idle
//! connection holds little.

use crate::transport::{Transport, TransportError};
use ashlar_reactor::{Buffer, Reactor};

/// Least bytes that a receive asks for.
const WINDOW_BYTES_MIN: usize = 16 << 10;
/// Most bytes that a receive asks for: a burst of thirty small writes.
const WINDOW_BYTES_MAX: usize = 128 << 10;
/// A payload of which this much is still to come is received into its own buffer.
const DIRECT_BYTES_MIN: usize = 8 << 10;

/// The receiving side of a connection.
pub struct Input {
    reactor: Reactor,
    transport: Transport,
    buffer: Option<Buffer>,
    /// The bytes in `start..end` are received and not consumed.
    start: usize,
    end: usize,
    window: usize,
}

impl Input {
    /// With nothing received.
    #[must_use]
    pub fn new(reactor: &Reactor, transport: Transport) -> Self {
        Self {
            reactor: reactor.clone(),
            transport,
            buffer: None,
            start: 0,
            end: 0,
            window: WINDOW_BYTES_MIN,
        }
    }

    /// What it receives from.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Received and not consumed.
    pub fn available(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[self.start..self.end],
            None => &[],
        }
    }

    /// Forgets the first `len` of what is available.
    ///
    /// # Panics
    /// If fewer are.
    pub fn consume(&mut self, len: usize) {
        assert!(len <= self.end - self.start, "consumed what was not there");
        self.start += len;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Waits until `len` bytes are available.
    pub async fn fill(&mut self, len: usize) -> Result<(), TransportError> {
        while self.end - self.start < len {
            let buffer = self.room(len);
            let asked = buffer.len() - self.end;
            let (buffer, received) = self.transport.recv_at(buffer, self.end).await;
            self.buffer = Some(buffer);
            let received = received?;
            if received == 0 {
                return Err(TransportError::Closed);
            }
            self.end += received;
            if received == asked {
                self.window = (self.window * 2).min(WINDOW_BYTES_MAX);
            } else if received < self.window / 4 {
                self.window = (self.window / 2).max(WINDOW_BYTES_MIN);
            }
        }
        Ok(())
    }

    /// Receives a payload of `len` bytes.
    pub async fn payload(&mut self, len: usize) -> Result<Buffer, TransportError> {
        if len.saturating_sub(self.end - self.start) < DIRECT_BYTES_MIN {
            self.fill(len).await?;
        }
        let buffer = self.reactor.buffer(len);
        let (payload, received) = self.payload_into(buffer, 0, len).await;
        received.map(|()| payload)
    }

    /// Receives a payload of `len` bytes into a buffer that exists, from `at` on; what lies beyond
    /// stays as it is.
    ///
    /// # Panics
    /// If it does not fit in there.
    pub async fn payload_into(
        &mut self,
        buffer: Buffer,
        at: usize,
        len: usize,
    ) -> (Buffer, Result<(), TransportError>) {
        let (whole, end) = (buffer.len(), at + len);
        assert!(end <= whole, "a payload that goes beyond its buffer");
        if len.saturating_sub(self.end - self.start) < DIRECT_BYTES_MIN
            && let Err(error) = self.fill(len).await
        {
            return (buffer, Err(error));
        }
        let mut payload = buffer;
        let held = len.min(self.end - self.start);
        payload[at..at + held].copy_from_slice(&self.available()[..held]);
        self.consume(held);
        let mut done = at + held;
        // A receive takes all that fits: it must not take what follows the payload.
        payload.truncate(end);
        while done < end {
            // What follows a long payload is likely a long payload: read little ahead of it.
            self.window = WINDOW_BYTES_MIN;
            let (back, received) = self.transport.recv_at(payload, done).await;
            payload = back;
            match received {
                Ok(0) => return (payload, Err(TransportError::Closed)),
                Ok(received) => done += received,
                Err(error) => return (payload, Err(error)),
            }
        }
        payload.resize(whole);
        (payload, Ok(()))
    }

    /// Receives `len` bytes and forgets them.
    pub async fn skip(&mut self, len: u64) -> Result<(), TransportError> {
        let mut rest = len;
        while rest > 0 {
            if self.start == self.end {
                self.fill(1).await?;
            }
            let available = self.end - self.start;
            let take = usize::try_from(rest).map_or(available, |rest| rest.min(available));
            self.consume(take);
            rest -= take as u64;
        }
        Ok(())
    }

    /// A buffer that begins with the available bytes and holds `len` in all, or more.
    fn room(&mut self, len: usize) -> Buffer {
        let held = self.start..self.end;
        (self.start, self.end) = (0, held.len());
        let wanted = self.window.max(len);
        match self.buffer.take() {
            // Idle: give back what is more than the next receive needs.
            Some(buffer) if held.is_empty() && buffer.len() == wanted => buffer,
            Some(mut buffer) if !held.is_empty() && buffer.len() >= len => {
                if held.start > 0 {
                    buffer.copy_within(held, 0);
                }
                buffer
            }
            Some(buffer) => {
                let mut larger = self.reactor.buffer(wanted);
                larger[..held.len()].copy_from_slice(&buffer[held]);
                larger
            }
            None => self.reactor.buffer(wanted),
        }
    }
}
