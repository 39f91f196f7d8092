//! An initiator that speaks iSCSI byte by byte: written from RFC 7143, sharing nothing with the
//! server.

use ashlar_proto::Address;
use ashlar_reactor::{NetError, Reactor, Stream};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

pub const NO_TAG: u32 = 0xffff_ffff;

/// A PDU as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pdu {
    pub bhs: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.bhs[0]
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.bhs[at..at + 2].try_into().unwrap())
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bhs[at..at + 4].try_into().unwrap())
    }

    pub fn itt(&self) -> u32 {
        self.u32(16)
    }

    /// Sense key, code and qualifier.
    pub fn sense(&self) -> (u8, u8, u8) {
        let sense = &self.data[2..];
        (sense[2] & 15, sense[12], sense[13])
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.data.clone())
            .unwrap()
            .replace('\0', " ")
    }
}

/// How to log in.
#[derive(Clone, Debug)]
pub struct Login {
    pub keys: Vec<(String, String)>,
    pub isid: u8,
    pub tsih: u16,
    pub cid: u16,
    pub cmd_sn: u32,
    pub version: u8,
}

impl Login {
    fn of(keys: &[(&str, &str)]) -> Self {
        let login = Self {
            keys: Vec::new(),
            isid: 1,
            tsih: 0,
            cid: 0,
            cmd_sn: 100,
            version: 0,
        };
        login.with(keys)
    }

    pub fn normal(target: &str) -> Self {
        let keys = [
            ("InitiatorName", "iqn.2026-01.test:host"),
            ("TargetName", target),
            ("SessionType", "Normal"),
        ];
        Self::of(&keys)
    }

    pub fn discovery() -> Self {
        Self::of(&[
            ("InitiatorName", "iqn.2026-01.test:host"),
            ("SessionType", "Discovery"),
        ])
    }

    pub fn with(mut self, keys: &[(&str, &str)]) -> Self {
        let keys = keys
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()));
        self.keys.extend(keys);
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(other, _)| other != key);
        self
    }

    pub fn isid(mut self, isid: u8) -> Self {
        self.isid = isid;
        self
    }

    /// Adds a connection to a session.
    pub fn joining(mut self, tsih: u16, cid: u16, cmd_sn: u32) -> Self {
        (self.tsih, self.cid, self.cmd_sn) = (tsih, cid, cmd_sn);
        self
    }

    pub fn text(keys: &[(String, String)]) -> Vec<u8> {
        let keys = keys.iter().map(|(key, value)| format!("{key}={value}\0"));
        keys.collect::<String>().into_bytes()
    }

    /// The header of a login request from stage `csg`, to `nsg` if it is to go on.
    pub fn bhs(&self, csg: u8, nsg: Option<u8>) -> [u8; 48] {
        let mut bhs = [0; 48];
        bhs[0] = 0x43;
        bhs[1] = csg << 2 | nsg.map_or(0, |nsg| 0x80 | nsg);
        (bhs[2], bhs[3]) = (self.version, self.version);
        bhs[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, self.isid]);
        bhs[14..16].copy_from_slice(&self.tsih.to_be_bytes());
        bhs[16..20].copy_from_slice(&7u32.to_be_bytes());
        bhs[20..22].copy_from_slice(&self.cid.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        bhs
    }
}

/// CRC-32C bit by bit.
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    (!crc).to_le_bytes()
}

pub fn read10(block: u32, blocks: u16) -> [u8; 16] {
    cdb10(0x28, block, blocks)
}

pub fn write10(block: u32, blocks: u16) -> [u8; 16] {
    cdb10(0x2a, block, blocks)
}

fn cdb10(code: u8, block: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[2..6].copy_from_slice(&block.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// Flags of SCSI commands.
pub const FINAL: u8 = 0x80;
pub const READ: u8 = 0x40;
pub const WRITE: u8 = 0x20;
pub const ORDERED: u8 = 2;
pub const HEAD: u8 = 3;

/// An initiator's end of a connection.
#[derive(Clone)]
pub struct Initiator {
    pub reactor: Reactor,
    pub stream: Stream,
    held: Rc<RefCell<Vec<u8>>>,
    pub header_digest: Rc<Cell<bool>>,
    pub data_digest: Rc<Cell<bool>>,
    pub cmd_sn: Rc<Cell<u32>>,
    pub itt: Rc<Cell<u32>>,
    pub tsih: Rc<Cell<u16>>,
    /// What the server answered, by key.
    pub agreed: Rc<RefCell<HashMap<String, String>>>,
    /// `MaxCmdSN` of what came last.
    pub max_cmd_sn: Rc<Cell<u32>>,
}

impl Initiator {
    pub async fn connect(reactor: &Reactor, address: &Address) -> Self {
        let stream = reactor.connect(address).await.expect("server accepts");
        Self {
            reactor: reactor.clone(),
            stream,
            held: Rc::default(),
            header_digest: Rc::default(),
            data_digest: Rc::default(),
            cmd_sn: Rc::new(Cell::new(100)),
            itt: Rc::new(Cell::new(1000)),
            tsih: Rc::default(),
            agreed: Rc::default(),
            max_cmd_sn: Rc::default(),
        }
    }

    pub async fn try_send(&self, bytes: &[u8]) -> Result<(), NetError> {
        let mut buffer = self.reactor.buffer(bytes.len());
        buffer.copy_from_slice(bytes);
        self.stream.send(vec![buffer.freeze()]).await
    }

    /// The bytes of a PDU.
    pub fn frame(&self, mut bhs: [u8; 48], data: &[u8]) -> Vec<u8> {
        bhs[5..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes()[1..]);
        let mut bytes = bhs.to_vec();
        if self.header_digest.get() {
            bytes.extend(crc32c(&bhs));
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        bytes.extend(&padded);
        if self.data_digest.get() && !data.is_empty() {
            bytes.extend(crc32c(&padded));
        }
        bytes
    }

    pub async fn send(&self, bhs: [u8; 48], data: &[u8]) {
        let bytes = self.frame(bhs, data);
        self.try_send(&bytes).await.expect("server takes it");
    }

    async fn receive_bytes(&self, len: usize) -> Option<Vec<u8>> {
        while self.held.borrow().len() < len {
            let buffer = self.reactor.buffer(64 << 10);
            let (buffer, received) = self.stream.recv(buffer).await;
            match received {
                Ok(0) | Err(_) => return None,
                Ok(received) => self.held.borrow_mut().extend(&buffer[..received]),
            }
        }
        let rest = self.held.borrow_mut().split_off(len);
        Some(self.held.replace(rest))
    }

    /// The next PDU; `None` once the server has closed.
    pub async fn try_receive(&self) -> Option<Pdu> {
        let bhs: [u8; 48] = self.receive_bytes(48).await?.try_into().unwrap();
        assert_eq!(bhs[4], 0, "no additional headers");
        if self.header_digest.get() {
            assert_eq!(self.receive_bytes(4).await?, crc32c(&bhs));
        }
        let len = u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]) as usize;
        let mut data = self.receive_bytes(len.next_multiple_of(4)).await?;
        if self.data_digest.get() && len > 0 {
            assert_eq!(self.receive_bytes(4).await?, crc32c(&data));
        }
        data.truncate(len);
        let pdu = Pdu { bhs, data };
        self.max_cmd_sn.set(pdu.u32(32));
        Some(pdu)
    }

    pub async fn receive(&self) -> Pdu {
        self.try_receive().await.expect("a PDU comes")
    }

    /// The next PDU, which is of this kind.
    pub async fn expect(&self, opcode: u8) -> Pdu {
        let pdu = self.receive().await;
        assert_eq!(pdu.opcode(), opcode, "{pdu:?}");
        pdu
    }

    pub async fn is_closed(&self) -> bool {
        self.try_receive().await.is_none()
    }

    /// Waits until the server closes; what comes before is dropped.
    pub async fn closed(&self) {
        while self.try_receive().await.is_some() {}
    }

    // Login.

    /// Sends a login request and gives the response.
    pub async fn login_step(&self, bhs: [u8; 48], keys: &[(&str, &str)]) -> Pdu {
        let keys: Vec<_> = keys
            .iter()
            .map(|&(key, value)| (key.into(), value.into()))
            .collect();
        self.send(bhs, &Login::text(&keys)).await;
        let response = self.expect(0x23).await;
        for pair in response.text().split(' ').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap();
            self.agreed.borrow_mut().insert(key.into(), value.into());
        }
        response
    }

    /// Logs in through the operational stage; the error is the status.
    pub async fn log_in(&self, login: &Login) -> Result<(), u16> {
        let keys: Vec<_> = login
            .keys
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        let response = self.login_step(login.bhs(1, Some(3)), &keys).await;
        if response.u16(36) != 0 {
            return Err(response.u16(36));
        }
        assert_eq!(response.bhs[1], 0x87, "into the full feature phase");
        self.enter(login, &response);
        Ok(())
    }

    /// The login has ended: what was agreed on holds.
    pub fn enter(&self, login: &Login, response: &Pdu) {
        let agreed = self.agreed.borrow();
        let uses = |key: &str| agreed.get(key).is_some_and(|value| value == "CRC32C");
        self.header_digest.set(uses("HeaderDigest"));
        self.data_digest.set(uses("DataDigest"));
        self.tsih.set(response.u16(14));
        self.cmd_sn.set(login.cmd_sn);
    }

    pub fn agreed(&self, key: &str) -> String {
        self.agreed.borrow().get(key).cloned().unwrap_or_default()
    }

    // Full feature phase.

    pub fn next_itt(&self) -> u32 {
        self.itt.set(self.itt.get() + 1);
        self.itt.get()
    }

    /// The number of the next command, which is used up.
    pub fn next_cmd_sn(&self) -> u32 {
        let cmd_sn = self.cmd_sn.get();
        self.cmd_sn.set(cmd_sn.wrapping_add(1));
        cmd_sn
    }

    /// The header of a command.
    pub fn command_bhs(&self, flags: u8, cdb: [u8; 16], expected: u32) -> [u8; 48] {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x01, flags);
        bhs[16..20].copy_from_slice(&self.next_itt().to_be_bytes());
        bhs[20..24].copy_from_slice(&expected.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.next_cmd_sn().to_be_bytes());
        bhs[32..48].copy_from_slice(&cdb);
        bhs
    }

    /// Sends a command for unit 0; gives its tag.
    pub async fn command(&self, flags: u8, cdb: [u8; 16], expected: u32, data: &[u8]) -> u32 {
        let bhs = self.command_bhs(flags, cdb, expected);
        self.send(bhs, data).await;
        self.itt.get()
    }

    pub fn data_out_bhs(itt: u32, ttt: u32, sn: u32, offset: u32, is_final: bool) -> [u8; 48] {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x05, u8::from(is_final) << 7);
        for (at, value) in [(16, itt), (20, ttt), (36, sn), (40, offset)] {
            bhs[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        bhs
    }

    /// Answers an R2T with the part of `data` that it asks for, in pieces of `segment` bytes.
    pub async fn answer_r2t(&self, r2t: &Pdu, data: &[u8], segment: usize) {
        assert_eq!(r2t.opcode(), 0x31);
        let (offset, len) = (r2t.u32(40), r2t.u32(44));
        let end = offset + len;
        let (mut at, mut sn) = (offset, 0);
        while at < end {
            let take = u32::try_from(segment).unwrap().min(end - at);
            let bhs = Self::data_out_bhs(r2t.itt(), r2t.u32(20), sn, at, at + take == end);
            self.send(bhs, &data[at as usize..][..take as usize]).await;
            (at, sn) = (at + take, sn + 1);
        }
    }

    /// Reads; the response tells of the status.
    pub async fn read(&self, block: u32, blocks: u16) -> Vec<u8> {
        let expected = u32::from(blocks) * 512;
        let itt = self
            .command(FINAL | READ, read10(block, blocks), expected, &[])
            .await;
        let mut data = Vec::new();
        loop {
            let pdu = self.expect(0x25).await;
            assert_eq!((pdu.itt(), pdu.u32(40) as usize), (itt, data.len()));
            data.extend(&pdu.data);
            if pdu.bhs[1] & 1 != 0 {
                assert_eq!(pdu.bhs[3], 0);
                return data;
            }
        }
    }

    /// Writes by whatever R2Ts the server sends; gives the response.
    pub async fn write(&self, block: u32, data: &[u8]) -> Pdu {
        let blocks = u16::try_from(data.len() / 512).unwrap();
        let expected = u32::try_from(data.len()).unwrap();
        self.command(FINAL | WRITE, write10(block, blocks), expected, &[])
            .await;
        loop {
            let pdu = self.receive().await;
            match pdu.opcode() {
                0x31 => self.answer_r2t(&pdu, data, 8192).await,
                0x21 => return pdu,
                _ => panic!("{pdu:?}"),
            }
        }
    }

    /// The status of TEST UNIT READY.
    pub async fn test_unit_ready(&self) -> u8 {
        self.command(FINAL, [0; 16], 0, &[]).await;
        self.expect(0x21).await.bhs[3]
    }

    /// Takes the unit attentions that new sessions find.
    pub async fn make_ready(&self) {
        for _ in 0..4 {
            if self.test_unit_ready().await == 0 {
                return;
            }
        }
        panic!("the unit does not become ready");
    }

    /// Sends an immediate task management request for unit 0.
    pub async fn manage(&self, function: u8, referenced: u32) -> u32 {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x42, 0x80 | function);
        bhs[16..20].copy_from_slice(&self.next_itt().to_be_bytes());
        bhs[20..24].copy_from_slice(&referenced.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.cmd_sn.get().to_be_bytes());
        bhs[32..36].copy_from_slice(&self.cmd_sn.get().wrapping_sub(1).to_be_bytes());
        self.send(bhs, &[]).await;
        self.itt.get()
    }

    /// Sends an immediate logout request.
    pub async fn log_out(&self, reason: u8, cid: u16) {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x46, 0x80 | reason);
        bhs[16..20].copy_from_slice(&self.next_itt().to_be_bytes());
        bhs[20..22].copy_from_slice(&cid.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.cmd_sn.get().to_be_bytes());
        self.send(bhs, &[]).await;
    }

    /// Sends a text request, not immediate.
    pub async fn text(&self, ttt: u32, text: &str) {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x04, 0x80);
        bhs[16..20].copy_from_slice(&9u32.to_be_bytes());
        bhs[20..24].copy_from_slice(&ttt.to_be_bytes());
        bhs[24..28].copy_from_slice(&self.next_cmd_sn().to_be_bytes());
        self.send(bhs, text.as_bytes()).await;
    }
}
