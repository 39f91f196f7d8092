//! Streams in order, cuts that hold and heal, resets that reach the other side.

use super::*;

const A: Host = Host(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
const B: Host = Host(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

struct Bench {
    net: Network,
    rng: Rng,
    now_ns: u64,
    events: Vec<(u64, NetEvent)>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        Self {
            net: Network::default(),
            rng: Rng::new(seed),
            now_ns: 0,
            events: Vec::new(),
        }
    }

    fn run(&mut self, until: Duration) {
        let end = self.now_ns + nanos(until);
        loop {
            self.events.extend(self.net.take_events());
            self.events.sort_by_key(|event| event.0);
            if self.events.first().is_none_or(|event| event.0 > end) {
                self.now_ns = end;
                return;
            }
            let (at, event) = self.events.remove(0);
            self.now_ns = self.now_ns.max(at);
            self.net.handle(event, self.now_ns, &mut self.rng);
        }
    }

    fn connect(&mut self) -> (EndId, EndId) {
        let address = "10.0.0.2:0".parse().unwrap();
        let (listener, bound) = self.net.listen(B, &address).unwrap();
        let attempt = self.net.connect(A, &bound, self.now_ns, &mut self.rng);
        self.run(Duration::from_millis(1));
        let near = self.net.connected(attempt).unwrap().unwrap();
        (near, self.net.accept(listener).unwrap())
    }

    fn receive(&mut self, end: EndId) -> Result<Option<Vec<u8>>, StreamError> {
        let mut bytes = vec![0; 64 << 10];
        let got = self
            .net
            .receive(end, &mut bytes, self.now_ns, &mut self.rng)?;
        Ok(got.map(|len| bytes[..len].to_vec()))
    }

    fn send(&mut self, end: EndId, bytes: &[u8]) -> Result<Option<usize>, StreamError> {
        self.net.send(end, bytes, self.now_ns, &mut self.rng)
    }
}

#[test]
fn bytes_arrive_in_order_and_a_full_window_waits() {
    let mut bench = Bench::new(1);
    let (near, far) = bench.connect();
    let message: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let (mut sent, mut got, mut waited) = (0, Vec::new(), false);
    while got.len() < message.len() {
        match bench.send(near, &message[sent..]).unwrap() {
            Some(len) => sent += len,
            None => waited = true,
        }
        bench.run(Duration::from_micros(50));
        got.extend(bench.receive(far).unwrap().unwrap_or_default());
    }
    assert!(waited && got == message);
    bench.net.close(near, bench.now_ns, &mut bench.rng);
    bench.run(Duration::from_millis(1));
    assert_eq!(bench.receive(far), Ok(Some(Vec::new())));
}

#[test]
fn a_cut_holds_bytes_until_it_heals() {
    let mut bench = Bench::new(2);
    let (near, far) = bench.connect();
    bench.net.set_cut(A, B, true, bench.now_ns);
    bench.send(near, b"held").unwrap();
    bench.send(far, b"other way").unwrap();
    bench.run(Duration::from_secs(30));
    assert_eq!(bench.receive(far), Ok(None));
    assert_eq!(bench.receive(near).unwrap().unwrap()[..1], b"o"[..]);
    bench.net.heal(bench.now_ns);
    bench.run(Duration::from_millis(1));
    assert_eq!(bench.receive(far).unwrap().unwrap()[..1], b"h"[..]);
}

#[test]
fn a_dead_end_resets_its_peer_after_what_it_sent() {
    let mut bench = Bench::new(3);
    let (near, far) = bench.connect();
    bench.send(near, b"x").unwrap();
    bench.net.drop_end(near, bench.now_ns);
    bench.run(Duration::from_millis(1));
    assert_eq!(bench.receive(far), Ok(Some(b"x".to_vec())));
    assert_eq!(bench.receive(far), Err(StreamError::Reset));
}

#[test]
fn a_dark_host_is_silent_until_it_is_back() {
    let mut bench = Bench::new(4);
    let (near, far) = bench.connect();
    bench.net.set_dark(B, true);
    bench.net.lose_end(far);
    bench.send(near, b"hello?").unwrap();
    bench.run(Duration::from_secs(20));
    assert_eq!(bench.receive(near), Ok(None));
    bench.net.set_dark(B, false);
    bench.run(Duration::from_secs(2));
    assert_eq!(bench.receive(near), Err(StreamError::Reset));
}

#[test]
fn nobody_there_is_refused_and_a_cut_times_out() {
    let mut bench = Bench::new(5);
    let nobody = "10.0.0.2:9".parse().unwrap();
    let refused = bench.net.connect(A, &nobody, 0, &mut bench.rng);
    bench.run(Duration::from_millis(1));
    assert_eq!(
        bench.net.connected(refused),
        Some(Err(StreamError::Refused))
    );
    bench.net.set_cut(B, A, true, bench.now_ns);
    let cut = bench.net.connect(A, &nobody, bench.now_ns, &mut bench.rng);
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.net.connected(cut), None);
    bench.run(Duration::from_secs(10));
    assert_eq!(bench.net.connected(cut), Some(Err(StreamError::TimedOut)));
}
