//! What clients of a front end may use up.

use std::time::Duration;

/// What clients may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; one more is closed as soon as it is accepted.
    pub connections_max: usize,
    /// How long a client may take for its handshake or login, the server's own time not counted.
    pub handshake: Duration,
    /// Requests of one connection that are not fully answered; further ones wait in the socket.
    pub requests_in_flight_max: usize,
    /// Bytes that these read or write. One longer request is admitted when no other is in flight.
    pub bytes_in_flight_max: u64,
    /// The same for all connections of a server, and never more than this. A half is reserved:
    /// each of `connections_max` has its part of it, whatever others do. Beside it a connection
    /// has its receive buffer, of at most 128 KiB, and less than 1 MiB where TLS is sending.
    pub bytes_in_flight_all: u64,
    /// How long, twice at most, a client that takes more than its reserve may keep it by not
    /// sending the rest of a request or not taking a reply, while others wait for it.
    pub stall: Duration,
    /// How long requests in flight may take to end after the server was told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            handshake: Duration::from_secs(10),
            requests_in_flight_max: 256,
            bytes_in_flight_max: 64 << 20,
            bytes_in_flight_all: 1 << 30,
            stall: Duration::from_secs(10),
            drain: Duration::from_secs(10),
        }
    }
}
