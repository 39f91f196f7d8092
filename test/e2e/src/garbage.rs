//! Bytes that no client should send, at any listener: nonsense, messages cut short or with bytes
//! changed, huge lengths, connections that are opened and left, senders that never end.
//!
//! What is sent follows from a seed, and neither number nor time grows without bound.

use crate::ledger::Random;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Of each kind of bytes.
const ROUNDS: u64 = 24;
/// Connections that say nothing, or half of something.
const HALF_OPEN: usize = 40;
/// Senders of a byte at a time.
const SLOW: usize = 6;
/// For how long these send.
const SLOW_TIME: Duration = Duration::from_secs(2);
/// What is said before the garbage is answered within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A write or read of garbage takes no longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where somebody listens.
#[derive(Clone, Debug)]
pub enum Place {
    /// HOST:PORT.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A connection to such a place.
enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Place {
    fn connect(&self) -> std::io::Result<Connection> {
        let connection = match self {
            Self::Tcp(address) => Connection::Tcp(TcpStream::connect(address)?),
            Self::Unix(path) => Connection::Unix(UnixStream::connect(path)?),
        };
        connection.wait_at_most(ANSWER_LIMIT)?;
        Ok(connection)
    }
}

impl Connection {
    fn wait_at_most(&self, limit: Duration) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Takes what comes at once, 64 KiB at most.
    fn read_some(&mut self) {
        let mut bytes = vec![0; 64 << 10];
        let _ = match self {
            Self::Tcp(stream) => stream.read(&mut bytes),
            Self::Unix(stream) => stream.read(&mut bytes),
        };
    }

    fn end(&mut self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

/// A listener, and what somebody who means well would say to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub place: Place,
    /// Said before, each with how many bytes come back: so that garbage goes deeper in.
    pub before: Vec<(Vec<u8>, usize)>,
    /// Messages of the protocol, each as the first one.
    pub messages: Vec<Vec<u8>>,
}

impl Target {
    /// At a TCP address.
    #[must_use]
    pub fn tcp(address: impl Into<String>, messages: Vec<Vec<u8>>) -> Self {
        Self {
            place: Place::Tcp(address.into()),
            before: Vec::new(),
            messages,
        }
    }

    /// At a Unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>, messages: Vec<Vec<u8>>) -> Self {
        Self {
            place: Place::Unix(path.into()),
            before: Vec::new(),
            messages,
        }
    }

    /// With something that is said before.
    #[must_use]
    pub fn after(mut self, before: Vec<(Vec<u8>, usize)>) -> Self {
        self.before = before;
        self
    }

    fn connect(&self) -> Option<Connection> {
        let mut connection = self.place.connect().ok()?;
        for (said, expected) in &self.before {
            connection.write(said).ok()?;
            let mut answer = vec![0; *expected];
            let read = match &mut connection {
                Connection::Tcp(stream) => stream.read_exact(&mut answer),
                Connection::Unix(stream) => stream.read_exact(&mut answer),
            };
            read.ok()?;
        }
        connection.wait_at_most(PATIENCE).ok()?;
        Some(connection)
    }

    /// Sends and goes, at once or after something has come back.
    fn send(&self, random: &mut Random, bytes: &[u8]) {
        // A listener may refuse one of many.
        let Some(mut connection) = self.connect() else {
            return;
        };
        let _ = connection.write(bytes);
        match random.below(3) {
            0 => {}
            1 => connection.end(),
            _ => {
                connection.end();
                connection.read_some();
            }
        }
    }

    fn message(&self, random: &mut Random) -> Vec<u8> {
        let count = u64::try_from(self.messages.len()).unwrap_or(u64::MAX);
        match usize::try_from(random.below(count.max(1))) {
            Ok(index) if index < self.messages.len() => self.messages[index].clone(),
            _ => Vec::new(),
        }
    }

    /// Everything that this module knows. Ends when all of it has been sent; gives the connections
    /// that are left open.
    fn bombard(&self, seed: u64) -> Open {
        let mut random = Random(seed);
        for _ in 0..ROUNDS {
            let mut bytes = noise(&mut random, 8192);
            self.send(&mut random, &bytes);
            bytes = self.message(&mut random);
            bytes.truncate(place(&mut random, bytes.len()));
            self.send(&mut random, &bytes);
            bytes = self.message(&mut random);
            for _ in 0..=random.below(3) {
                let at = place(&mut random, bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next().to_le_bytes()[0];
                }
            }
            self.send(&mut random, &bytes);
            // Lengths may be anywhere: four bytes of ones are a huge one wherever one is.
            bytes = self.message(&mut random);
            let at = place(&mut random, bytes.len());
            bytes
                .iter_mut()
                .skip(at)
                .take(4)
                .for_each(|byte| *byte = 0xff);
            bytes.extend(noise(&mut random, 256));
            self.send(&mut random, &bytes);
        }
        let mut open = Vec::new();
        for _ in 0..HALF_OPEN {
            if let Some(mut connection) = self.connect() {
                let mut bytes = self.message(&mut random);
                bytes.truncate(place(&mut random, bytes.len()));
                let _ = connection.write(&bytes);
                open.push(connection);
            }
        }
        self.trickle(&mut random, &mut open);
        Open(open)
    }

    /// Some senders that never come to an end, a byte at a time.
    fn trickle(&self, random: &mut Random, open: &mut Vec<Connection>) {
        let mut slow: Vec<_> = (0..SLOW)
            .filter_map(|_| Some((self.connect()?, self.message(random), 0)))
            .collect();
        let end = Instant::now() + SLOW_TIME;
        while Instant::now() < end {
            for (connection, message, at) in &mut slow {
                let byte = message.get(*at).copied().unwrap_or(b'a');
                *at += 1;
                let _ = connection.write(&[byte]);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        open.extend(slow.into_iter().map(|(connection, ..)| connection));
    }
}

/// Connections that were left open: they close when this is dropped.
pub struct Open(Vec<Connection>);

impl Open {
    /// How many these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Sends garbage to all of them at the same time.
///
/// # Panics
///
/// If a sender does.
#[must_use]
pub fn bombard(targets: &[Target], seed: u64) -> Vec<Open> {
    std::thread::scope(|scope| {
        let senders: Vec<_> = (seed..)
            .zip(targets)
            .map(|(seed, target)| scope.spawn(move || target.bombard(seed)))
            .collect();
        let ended = senders.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended
            .map(|open| open.expect("a sender does not panic"))
            .collect()
    })
}

fn place(random: &mut Random, len: usize) -> usize {
    let bound = u64::try_from(len).unwrap_or(u64::MAX).max(1);
    usize::try_from(random.below(bound)).unwrap_or(0)
}

fn noise(random: &mut Random, most: u64) -> Vec<u8> {
    let len = random.below(most);
    (0..len).map(|_| random.next().to_le_bytes()[0]).collect()
}
