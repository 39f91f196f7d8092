//! The iSCSI server in a simulated world, with an initiator that sends what the input says.
//!
//! Beside never panicking, the server must send nothing but whole PDUs of the protocol, must not
//! outlive its initiator, and must let another one log in as if nothing had been.

use crate::client::Script;
use ashlar_client::{Geometry, MemoryDevice};
use ashlar_iscsi_server::{
    Access, Authentication, CatalogError, ChapSecret, IscsiOptions, IscsiServer, Limits,
    Registrations, Reservations, ReservationsError, TargetCatalog, TargetInfo, UnitInfo,
};
use ashlar_proto::Address;
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::World;
use std::cell::RefCell;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

const UNIT_BYTES: u64 = 1 << 20;
/// The longest that the server may keep a connection whose initiator has gone.
const END_WITHIN: Duration = Duration::from_secs(60);
const HEADER_BYTES: usize = 48;
const OPEN: &str = "iqn.2026-01.test:open";
const SECRET: &str = "iqn.2026-01.test:secret";
const INITIATOR: &str = "iqn.2026-01.test:initiator";

struct Catalog {
    device: MemoryDevice,
    reservations: RefCell<Reservations>,
}

impl TargetCatalog for Catalog {
    type Device = MemoryDevice;

    async fn discovery(&self, _: &str) -> Result<Access, CatalogError> {
        Ok(Access::Granted(Authentication::default()))
    }

    async fn targets(&self, _: &str) -> Result<Vec<TargetInfo>, CatalogError> {
        let secret = |name: &str| ChapSecret {
            name: name.to_owned(),
            secret: b"a secret of twelve".to_vec(),
        };
        let chap = Authentication {
            initiator: vec![secret("user")],
            target: Some(secret("target")),
        };
        let unit = |lun, read_only| UnitInfo {
            lun,
            volume: "disk".to_owned(),
            id: u128::from(lun) + 1,
            read_only,
        };
        let target = |name: &str, authentication| TargetInfo {
            name: name.to_owned(),
            alias: None,
            access: Access::Granted(authentication),
            units: vec![unit(0, false), unit(1, true)],
        };
        Ok(vec![
            target(OPEN, Authentication::default()),
            target(SECRET, chap),
        ])
    }

    async fn open(&self, _: &str) -> Result<MemoryDevice, CatalogError> {
        Ok(self.device.clone())
    }

    async fn reservations(&self, _: u128) -> Result<Reservations, ReservationsError> {
        Ok(self.reservations.borrow().clone())
    }

    async fn replace_reservations(
        &self,
        _: u128,
        seen: u64,
        value: &Registrations,
    ) -> Result<u64, ReservationsError> {
        let mut reservations = self.reservations.borrow_mut();
        if reservations.version != seen {
            return Err(ReservationsError::Conflict);
        }
        reservations.version += 1;
        reservations.value = value.clone();
        Ok(reservations.version)
    }
}

/// Runs one session.
pub(crate) fn run(input: &[u8], seed: u64) -> u64 {
    let world = World::new(seed);
    let process = |name, host: [u8; 4]| world.process(name, host.into()).reactor().clone();
    let reactor = process("server", [10, 0, 0, 1]);
    let client = process("client", [10, 0, 0, 2]);
    let address: Address = "10.0.0.1:3260".parse().expect("an address");
    let starting = reactor.spawn(start(reactor.clone(), address.clone()));
    let server = world.run(Duration::from_secs(1), starting);
    let server = server.expect("the server starts");
    let talking = client.spawn(Script::new(input, seed).play(client.clone(), address.clone()));
    let replies = world.run(Duration::from_secs(600), talking);
    let replies = replies.expect("the initiator ends");
    world.run_for(END_WITHIN);
    assert_eq!(
        server.connections(),
        0,
        "a connection outlived its initiator"
    );
    let may_have_digests = input.windows(6).any(|word| word == b"CRC32C");
    let behaviour = check(&replies, may_have_digests);
    let next = Script::new(&login(OPEN, ""), 0).play(client.clone(), address);
    let answer = world.run(Duration::from_secs(600), client.spawn(next));
    let answer = answer.expect("the next initiator ends");
    assert!(
        answer.len() >= HEADER_BYTES && answer[0] == 0x23 && answer[36] == 0,
        "the server lets the next initiator in"
    );
    // Its session ends with its connection.
    world.run_for(END_WITHIN);
    behaviour
}

async fn start(reactor: Reactor, address: Address) -> IscsiServer {
    let geometry = Geometry {
        size_bytes: UNIT_BYTES,
        block_bytes_min: 512,
        block_bytes_preferred: 4096,
        request_bytes_max: 32 << 20,
        read_only: false,
    };
    let catalog = Rc::new(Catalog {
        device: MemoryDevice::with_geometry(&reactor, geometry),
        reservations: RefCell::default(),
    });
    let limits = Limits {
        requests_in_flight_max: 8,
        bytes_in_flight_max: 2 << 20,
        ..Limits::default()
    };
    let options = IscsiOptions {
        limits,
        ..IscsiOptions::default()
    };
    let served = IscsiServer::serve(&reactor, &[address], catalog, options).await;
    served.expect("the address is free")
}

/// Checks that the replies are PDUs that a target may send, and sums up which. Where digests may
/// follow, only logins are looked at.
fn check(replies: &[u8], may_have_digests: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut rest = replies;
    for _ in 0..24 {
        let Some(header) = rest.get(..HEADER_BYTES) else {
            break;
        };
        let opcode = header[0] & 0x3f;
        let is_login = opcode == 0x23;
        if may_have_digests && !is_login {
            break;
        }
        assert!(
            matches!(opcode, 0x20..=0x26 | 0x31 | 0x32 | 0x3f),
            "no target sends opcode {opcode:#x}"
        );
        (opcode, header[1], header[2], header[3]).hash(&mut hasher);
        if is_login {
            (header[36], header[37]).hash(&mut hasher);
        }
        let length = header[5..8]
            .iter()
            .fold(0, |n, &byte| n << 8 | usize::from(byte));
        let whole = HEADER_BYTES + usize::from(header[4]) * 4 + length.next_multiple_of(4);
        if opcode == 0x21 && rest.len() >= HEADER_BYTES + 4 {
            // The beginning of the sense data tells of the refusal.
            rest[HEADER_BYTES..].get(4).hash(&mut hasher);
            rest[HEADER_BYTES..].get(14).hash(&mut hasher);
        }
        let Some(next) = rest.get(whole..) else {
            break;
        };
        rest = next;
    }
    hasher.finish()
}

/// A PDU: opcode, flags, what is set in its header, data.
fn pdu(opcode: u8, flags: u8, fields: &[(usize, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    (bytes[0], bytes[1]) = (opcode, flags);
    for (at, field) in fields {
        bytes[*at..*at + field.len()].copy_from_slice(field);
    }
    let length = u32::try_from(data.len()).unwrap_or(0).to_be_bytes();
    bytes[5..8].copy_from_slice(&length[1..]);
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A login to a target in one step, with more keys.
fn login(target: &str, more: &str) -> Vec<u8> {
    let text = format!(
        "InitiatorName={INITIATOR}\0TargetName={target}\0SessionType=Normal\0\
         MaxRecvDataSegmentLength=65536\0{more}"
    );
    let isid = (8, &[0x80, 0, 0, 0, 0, 1][..]);
    pdu(0x43, 0x87, &[isid, (24, &[0, 0, 0, 1])], text.as_bytes())
}

/// A SCSI command with its tag and number.
fn command(number: u8, cdb: &[u8], expected: [u8; 4], flags: u8, data: &[u8]) -> Vec<u8> {
    let fields: [(usize, &[u8]); 4] = [
        (16, &[0, 0, 0, number]),
        (20, &expected),
        (24, &[0, 0, 0, number]),
        (32, cdb),
    ];
    pdu(0x01, 0x81 | flags, &fields, data)
}

/// Sessions that make sense.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (reads, writes) = (0x40, 0x20);
    let open = || login(OPEN, "InitialR2T=No\0ImmediateData=Yes\0");
    let with = |commands: &[Vec<u8>]| {
        let mut all = open();
        commands.iter().for_each(|command| all.extend(command));
        all
    };
    let read = command(
        1,
        &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        [0, 0, 0x10, 0],
        reads,
        &[],
    );
    let write_cdb = [0x2a, 0, 0, 0, 0, 8, 0, 0, 8, 0];
    let write = command(2, &write_cdb, [0, 0, 0x10, 0], writes, &[7; 4096]);
    let asked = command(
        1,
        &[0x2a, 0, 0, 0, 0, 8, 0, 4, 0, 0],
        [0, 8, 0, 0],
        writes,
        &[],
    );
    let data_out = pdu(
        0x05,
        0x80,
        &[(16, &[0, 0, 0, 1]), (20, &[0; 4])],
        &[9; 8192],
    );
    let inquiry = command(1, &[0x12, 1, 0x83, 0, 0xff, 0], [0, 0, 0, 0xff], reads, &[]);
    let reserve = command(
        2,
        &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0],
        [0, 0, 0, 24],
        writes,
        &[1; 24],
    );
    let unmap_list = [&[0, 22, 0, 16][..], &[0; 19], &[64][..]].concat();
    let unmap = command(
        3,
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0],
        [0, 0, 0, 24],
        writes,
        &unmap_list,
    );
    let manage = |function: u8| pdu(0x42, 0x80 | function, &[(20, &[0, 0, 0, 1])], &[]);
    let ping = pdu(
        0x40,
        0x80,
        &[(16, &[0, 0, 0, 9]), (20, &[0xff; 4])],
        b"ping",
    );
    let ask = pdu(
        0x04,
        0x80,
        &[(20, &[0xff; 4]), (24, &[0, 0, 0, 1])],
        b"SendTargets=\0",
    );
    let logout = pdu(0x46, 0x80, &[], &[]);
    let discovery = {
        let text = format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0");
        let isid = (8, &[0x80, 0, 0, 0, 0, 2][..]);
        let mut all = pdu(0x43, 0x87, &[isid], text.as_bytes());
        all.extend(pdu(0x04, 0x80, &[(20, &[0xff; 4])], b"SendTargets=All\0"));
        all
    };
    let chap = {
        let text =
            format!("InitiatorName={INITIATOR}\0TargetName={SECRET}\0AuthMethod=CHAP,None\0");
        let mut all = pdu(0x43, 0x81, &[], text.as_bytes());
        all.extend(pdu(0x43, 0x01, &[], b"CHAP_A=5,6,7\0"));
        let answer =
            b"CHAP_N=user\0CHAP_R=0x00112233445566778899aabbccddeeff\0CHAP_I=1\0CHAP_C=0x0102\0";
        all.extend(pdu(0x43, 0x81, &[], answer));
        all
    };
    vec![
        open(),
        with(&[read, write, ping, logout.clone()]),
        with(&[asked.clone(), data_out]),
        with(&[inquiry, reserve, unmap]),
        with(&[asked.clone(), manage(2), manage(5), manage(6)]),
        with(&[asked, manage(1), ask, logout]),
        login(
            OPEN,
            "HeaderDigest=CRC32C\0DataDigest=CRC32C,None\0MaxConnections=4\0",
        ),
        discovery,
        chap,
    ]
}
