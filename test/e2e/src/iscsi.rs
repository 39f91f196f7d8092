//! A small iSCSI initiator, so that a test can send any CDB from any initiator port and knows how each
//! was answered.
//!
//! Written from RFC 7143, independently of the target under test: one connection, one command at a time,
//! no digests, immediate data only.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const HEADER_BYTES: usize = 48;
const FINAL: u8 = 0x80;
const LOGIN_REQUEST: u8 = 0x43;
const LOGIN_RESPONSE: u8 = 0x23;
const SCSI_COMMAND: u8 = 0x01;
const SCSI_RESPONSE: u8 = 0x21;
const DATA_IN: u8 = 0x25;
const NOP_OUT: u8 = 0x40;
const NOP_IN: u8 = 0x20;
const NO_TAG: u32 = u32::MAX;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// SAM-5 status: 0 GOOD, 2 CHECK CONDITION, 0x18 RESERVATION CONFLICT.
    pub status: u8,
    /// Sense data, without its length.
    pub sense: Vec<u8>,
    /// What came.
    pub data: Vec<u8>,
}

impl Answer {
    /// Sense key, additional sense code and its qualifier of fixed-format sense data.
    #[must_use]
    pub fn code(&self) -> Option<(u8, u8, u8)> {
        let byte = |at: usize| self.sense.get(at).copied();
        Some((byte(2)? & 0xf, byte(12)?, byte(13)?))
    }

    /// What came, of a command that must end in GOOD.
    ///
    /// # Errors
    ///
    /// If it ended otherwise.
    pub fn good(self) -> Result<Vec<u8>> {
        ensure!(self.status == 0, "ended in {self:x?}");
        Ok(self.data)
    }
}

/// A session of one connection.
#[derive(Debug)]
pub struct Initiator {
    stream: TcpStream,
    cmd_sn: u32,
    exp_stat_sn: u32,
    next_tag: u32,
}

impl Initiator {
    /// Logs in to a target, as the initiator port of that name and number.
    ///
    /// # Errors
    ///
    /// If the connection fails or the target refuses; the text has its status class and detail.
    pub fn login(address: &str, initiator: &str, port: u8, target: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut session = Self {
            stream,
            cmd_sn: 1,
            exp_stat_sn: 0,
            next_tag: 1,
        };
        let keys = [
            ("InitiatorName", initiator),
            ("TargetName", target),
            ("SessionType", "Normal"),
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxRecvDataSegmentLength", "262144"),
        ];
        let mut text = Vec::new();
        for (key, value) in keys {
            text.extend(format!("{key}={value}\0").bytes());
        }
        loop {
            let mut header = [0; HEADER_BYTES];
            header[0] = LOGIN_REQUEST;
            // Operational negotiation, and on to the full feature phase.
            header[1] = FINAL | 1 << 2 | 3;
            header[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, port]);
            header[24..28].copy_from_slice(&session.cmd_sn.to_be_bytes());
            header[28..32].copy_from_slice(&session.exp_stat_sn.to_be_bytes());
            session.send(header, &text)?;
            text.clear();
            let (answer, _) = session.receive()?;
            ensure!(answer[0] & 0x3f == LOGIN_RESPONSE, "no login response");
            let (class, detail) = (answer[36], answer[37]);
            ensure!(class == 0, "login refused: {class:02x}{detail:02x}");
            session.exp_stat_sn = word(&answer, 24).wrapping_add(1);
            if answer[1] & 0x83 == FINAL | 3 {
                return Ok(session);
            }
        }
    }

    /// Sends a command with its data, at most 64 KiB, and waits for its end.
    ///
    /// # Errors
    ///
    /// If the connection fails, or the target does what a target must not.
    pub fn command(&mut self, lun: u8, cdb: &[u8], out: &[u8], in_bytes: u32) -> Result<Answer> {
        let tag = self.next_tag;
        self.next_tag += 1;
        let mut header = [0; HEADER_BYTES];
        header[0] = SCSI_COMMAND;
        let direction = u8::from(in_bytes > 0) << 6 | u8::from(!out.is_empty()) << 5;
        header[1] = FINAL | direction | 1;
        header[9] = lun;
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        let expected = in_bytes.max(u32::try_from(out.len())?);
        header[20..24].copy_from_slice(&expected.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(header, out)?;
        let mut data = Vec::new();
        loop {
            let (answer, segment) = self.receive()?;
            match answer[0] & 0x3f {
                NOP_IN => self.pong(&answer)?,
                DATA_IN if word(&answer, 16) == tag => {
                    ensure!(
                        word(&answer, 40) as usize == data.len(),
                        "data out of order"
                    );
                    data.extend(segment);
                    if answer[1] & 1 != 0 {
                        self.exp_stat_sn = word(&answer, 24).wrapping_add(1);
                        let (status, sense) = (answer[3], Vec::new());
                        return Ok(Answer {
                            status,
                            sense,
                            data,
                        });
                    }
                }
                SCSI_RESPONSE if word(&answer, 16) == tag => {
                    self.exp_stat_sn = word(&answer, 24).wrapping_add(1);
                    ensure!(
                        answer[2] == 0,
                        "the target failed: response {:x}",
                        answer[2]
                    );
                    let sense = segment.get(2..).unwrap_or_default().to_vec();
                    let status = answer[3];
                    return Ok(Answer {
                        status,
                        sense,
                        data,
                    });
                }
                other => bail!("the target sent opcode {other:x}"),
            }
        }
    }

    /// Sends a command until no unit attention is in its way any more.
    ///
    /// # Errors
    ///
    /// As [`Initiator::command`].
    pub fn settled(&mut self, lun: u8, cdb: &[u8], out: &[u8], in_bytes: u32) -> Result<Answer> {
        loop {
            let answer = self.command(lun, cdb, out, in_bytes)?;
            if answer.code().is_none_or(|(key, ..)| key != 6) {
                return Ok(answer);
            }
        }
    }

    /// PERSISTENT RESERVE OUT to LUN 1 with its parameter list (SPC-4 section 6.16): the keys are the
    /// reservation key and the service action's. Gives the status.
    ///
    /// # Errors
    ///
    /// As [`Initiator::command`].
    pub fn reserve_out(
        &mut self,
        action: u8,
        kind: u8,
        keys: (u64, u64),
        aptpl: bool,
    ) -> Result<u8> {
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
        let mut list = Vec::new();
        list.extend(keys.0.to_be_bytes());
        list.extend(keys.1.to_be_bytes());
        list.extend([0, 0, 0, 0, u8::from(aptpl), 0, 0, 0]);
        Ok(self.settled(1, &cdb, &list, 0)?.status)
    }

    /// Writes `byte` all over the first block of LUN 1; gives the status.
    ///
    /// # Errors
    ///
    /// As [`Initiator::command`].
    pub fn write_first(&mut self, byte: u8) -> Result<u8> {
        let cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        Ok(self.settled(1, &cdb, &[byte; 512], 0)?.status)
    }

    /// Reads the first block of LUN 1.
    ///
    /// # Errors
    ///
    /// As [`Initiator::command`], or if it does not end in GOOD.
    pub fn read_first(&mut self) -> Result<Vec<u8>> {
        let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        self.settled(1, &cdb, &[], 512)?.good()
    }

    fn pong(&mut self, ping: &[u8; HEADER_BYTES]) -> Result<()> {
        if word(ping, 20) == NO_TAG {
            return Ok(());
        }
        let mut header = [0; HEADER_BYTES];
        header[0] = NOP_OUT;
        header[1] = FINAL;
        header[8..16].copy_from_slice(&ping[8..16]);
        header[16..20].copy_from_slice(&NO_TAG.to_be_bytes());
        header[20..24].copy_from_slice(&ping[20..24]);
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
        self.send(header, &[])
    }

    fn send(&mut self, mut header: [u8; HEADER_BYTES], data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len())?.to_be_bytes();
        header[5..8].copy_from_slice(&length[1..]);
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.stream.write_all(&bytes)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<([u8; HEADER_BYTES], Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.stream
            .read_exact(&mut header)
            .context("the target is gone")?;
        ensure!(header[4] == 0, "an additional header that nobody asked for");
        let length = (word(&header, 4) & 0xff_ffff) as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream
            .read_exact(&mut data)
            .context("the target is gone")?;
        data.truncate(length);
        Ok((header, data))
    }
}

fn word(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
    u32::from_be_bytes(bytes)
}
