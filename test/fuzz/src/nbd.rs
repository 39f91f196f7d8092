//! The NBD server in a simulated world, with a client that sends what the input says.
//!
//! The input is what the client sends; it is cut into pieces and spaced out by the round's seed.
//! Beside never panicking, the server must send nothing but whole messages of the protocol, must
//! not outlive its client, and must serve another client as if nothing had been.

use crate::client::Script;
use ashlar_client::{BlockDevice, BlockError, Durability, Geometry, MemoryDevice, ZeroMode};
use ashlar_nbd_server::{
    ChangesError, ExportCatalog, ExportDevice, ExportInfo, Limits, NbdOptions, NbdServer, OpenError,
};
use ashlar_proto::Address;
use ashlar_proto::message::Extent;
use ashlar_reactor::sim::World;
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

const EXPORT_BYTES: u64 = 1 << 20;
/// The longest that the server may keep a connection whose client has gone.
const END_WITHIN: Duration = Duration::from_secs(15);

/// The names of bitmaps: more than a client may select together.
const BITMAPS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// A memory device with bitmaps: everything but zeroes was written since each, and `9` is no more
/// when it is asked for.
#[derive(Clone)]
struct Device(MemoryDevice);

impl BlockDevice for Device {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        self.0.read(offset, len).await
    }

    async fn write(&self, at: u64, data: Buffer, to: Durability) -> Result<(), BlockError> {
        self.0.write(at, data, to).await
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.0.write_zeroes(offset, len, mode, durability).await
    }

    async fn trim(&self, offset: u64, len: u64, to: Durability) -> Result<(), BlockError> {
        self.0.trim(offset, len, to).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.0.flush().await
    }

    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        self.0.extents(offset, len, extents_max).await
    }
}

impl ExportDevice for Device {
    async fn changes(
        &self,
        bitmap: &str,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, ChangesError> {
        assert!(BITMAPS.contains(&bitmap), "{bitmap} cannot be selected");
        if bitmap == "9" {
            return Err(ChangesError::NoBitmap);
        }
        Ok(self.extents(offset, len, extents_max).await?)
    }
}

struct Catalog(Device);

impl ExportCatalog for Catalog {
    type Device = Device;

    async fn list(&self) -> Result<Vec<ExportInfo>, OpenError> {
        Ok(vec![ExportInfo::new("disk", EXPORT_BYTES)])
    }

    async fn bitmaps(&self, name: &str) -> Result<Vec<String>, OpenError> {
        assert_eq!(name, "disk", "the only export");
        Ok(BITMAPS.map(str::to_owned).to_vec())
    }

    async fn open(&self, name: &str) -> Result<Device, OpenError> {
        if name == "disk" {
            Ok(self.0.clone())
        } else {
            Err(OpenError::Unknown)
        }
    }
}

/// Runs one session.
pub(crate) fn run(input: &[u8], seed: u64) -> u64 {
    let world = World::new(seed);
    let process = |name, host: [u8; 4]| world.process(name, host.into()).reactor().clone();
    let reactor = process("server", [10, 0, 0, 1]);
    let client = process("client", [10, 0, 0, 2]);
    let address: Address = "10.0.0.1:10809".parse().expect("an address");
    let starting = reactor.spawn(start(reactor.clone(), address.clone()));
    let within = Duration::from_secs(1);
    let server = world.run(within, starting).expect("the server starts");
    let script = Script::new(input, seed);
    let talking = client.spawn(script.play(client.clone(), address.clone()));
    let replies = world.run(Duration::from_secs(600), talking);
    let replies = replies.expect("the client ends");
    world.run_for(END_WITHIN);
    assert_eq!(server.connections(), 0, "a connection outlived its client");
    let behaviour = check(&replies);
    let greeting = client.spawn(greet(client.clone(), address));
    let greeted = world.run(Duration::from_secs(5), greeting);
    assert_eq!(greeted, Ok(true), "the server serves the next client");
    behaviour
}

async fn start(reactor: Reactor, address: Address) -> NbdServer {
    let catalog = Rc::new(Catalog(Device(MemoryDevice::new(&reactor, EXPORT_BYTES))));
    let limits = Limits {
        requests_in_flight_max: 8,
        bytes_in_flight_max: 2 << 20,
        ..Limits::default()
    };
    let options = NbdOptions {
        limits,
        ..NbdOptions::default()
    };
    let served = NbdServer::serve(&reactor, &address, catalog, options).await;
    served.expect("the address is free")
}

/// Whether a new client gets its greeting.
async fn greet(reactor: Reactor, address: Address) -> bool {
    let Ok(stream) = reactor.connect(&address).await else {
        return false;
    };
    let mut buffer = reactor.buffer(18);
    let mut done = 0;
    while done < buffer.len() {
        let (back, received) = stream.recv_at(buffer, done).await;
        buffer = back;
        match received {
            Ok(0) | Err(_) => return false,
            Ok(received) => done += received,
        }
    }
    buffer.starts_with(b"NBDMAGICIHAVEOPT")
}

/// Checks that the replies are messages of the protocol, and sums up which.
///
/// Data of simple replies cannot be told from messages without the requests: from the first one
/// on, only what it says is looked at.
fn check(replies: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut rest = replies;
    if rest.len() < 18 {
        return 0;
    }
    assert!(rest.starts_with(b"NBDMAGICIHAVEOPT\0\x03"), "the greeting");
    rest = &rest[18..];
    let mut messages = 0;
    while rest.len() >= 20 && messages < 24 {
        let word = |at: usize| {
            let bytes = rest[at..at + 4].try_into().expect("four bytes");
            u32::from_be_bytes(bytes)
        };
        let (kind, len) = match word(0) {
            0x0003_e889 => {
                assert_eq!(word(4), 0x0455_65a9, "magic of an option's reply");
                (word(8) ^ word(12), 20 + word(16) as usize)
            }
            0x668e_33ef => (word(4), 20 + word(16) as usize),
            0x6e8a_278c if rest.len() >= 32 => {
                assert_eq!(word(24), 0, "replies are short");
                (word(4), 32 + word(28) as usize)
            }
            0x6e8a_278c => break,
            0x6744_6698 => {
                word(4).hash(&mut hasher);
                break;
            }
            // The reply to NBD_OPT_EXPORT_NAME: size, flags, maybe zeroes.
            0 => {
                assert_eq!(u64::from(word(4)), EXPORT_BYTES, "the size of the export");
                // The end of the connection may cut the zeroes short; no message begins with one.
                let zeroes = rest[10..].iter().take(124).take_while(|&&byte| byte == 0);
                (1, 10 + zeroes.count())
            }
            other => panic!("no message of the protocol begins with {other:#010x}"),
        };
        kind.hash(&mut hasher);
        messages += 1;
        if len > rest.len() {
            break;
        }
        match (word(0), word(4) & 0xffff) {
            (0x668e_33ef, 5) => check_status(&rest[20..len], false),
            (0x6e8a_278c, 6) => check_status(&rest[32..len], true),
            _ => {}
        }
        rest = &rest[len..];
    }
    hasher.finish()
}

/// Checks what one context tells: an id that is given, whole extents, none empty, all within the
/// export.
fn check_status(payload: &[u8], is_extended: bool) {
    let number = |bytes: &[u8]| {
        let bytes = bytes.iter();
        bytes.fold(0, |number: u64, &byte| number << 8 | u64::from(byte))
    };
    let (head, width) = if is_extended { (8, 8) } else { (4, 4) };
    let (head, extents) = payload.split_at(head);
    let id = number(&head[..4]);
    assert!((1..=8).contains(&id), "context {id} cannot be selected");
    let count = extents.len() / (2 * width);
    assert!(
        count > 0 && extents.len() == count * 2 * width,
        "whole extents"
    );
    assert!(
        !is_extended || number(&head[4..]) == count as u64,
        "their number"
    );
    let lengths = extents
        .chunks(2 * width)
        .map(|extent| number(&extent[..width]));
    let total: u64 = lengths
        .inspect(|&length| assert!(length > 0, "no empty extents"))
        .sum();
    assert!(total <= EXPORT_BYTES, "nothing beyond the export");
}
