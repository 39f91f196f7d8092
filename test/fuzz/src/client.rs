//! A client that sends what an input says, cut up and spaced out by the round's seed.

use ashlar_proto::Address;
use ashlar_reactor::sim::Rng;
use ashlar_reactor::{Reactor, Stream};
use std::time::Duration;

/// How long the client waits for more replies before it goes, in virtual time.
const PATIENCE: Duration = Duration::from_millis(50);
/// Most bytes of replies that the client takes.
const REPLY_BYTES_MAX: usize = 4 << 20;

/// What a client sends, and how it cuts it up.
pub(crate) struct Script {
    bytes: Vec<u8>,
    rng: Rng,
}

impl Script {
    pub(crate) fn new(bytes: &[u8], seed: u64) -> Self {
        Self {
            bytes: bytes.to_vec(),
            rng: Rng::new(seed),
        }
    }

    /// Sends all, and gives what came back.
    pub(crate) async fn play(mut self, reactor: Reactor, address: Address) -> Vec<u8> {
        let stream = reactor.connect(&address).await.expect("the server accepts");
        let receiving = reactor.spawn(receive(reactor.clone(), stream.clone()));
        let mut rest = &self.bytes[..];
        let whole = self.rng.index(4) > 0;
        while !rest.is_empty() {
            let most = if whole {
                rest.len()
            } else {
                64.min(rest.len())
            };
            let (piece, left) = rest.split_at(1 + self.rng.index(most));
            rest = left;
            let mut buffer = reactor.buffer(piece.len());
            buffer.copy_from_slice(piece);
            if stream.send(vec![buffer.freeze()]).await.is_err() {
                break;
            }
            if self.rng.index(8) == 0 {
                reactor
                    .sleep(Duration::from_micros(self.rng.below(300)))
                    .await;
            }
        }
        reactor.sleep(PATIENCE).await;
        stream.shutdown();
        receiving.await
    }
}

async fn receive(reactor: Reactor, stream: Stream) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < REPLY_BYTES_MAX {
        let (buffer, received) = stream.recv(reactor.buffer(64 << 10)).await;
        match received {
            Ok(0) | Err(_) => break,
            Ok(len) => all.extend_from_slice(&buffer[..len]),
        }
    }
    stream.shutdown();
    all
}
