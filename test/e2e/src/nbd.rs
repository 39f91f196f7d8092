//! A small NBD client, so that a test knows which write and which flush was answered when.
//!
//! Fixed newstyle handshake with `NBD_OPT_GO`, simple replies, any number of requests in flight.
//! Written from doc/proto.md of the NBD project, independently of the server under test.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;

const COMMAND_FUA: u16 = 1;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bytes of the export.
    Read,
    /// Store bytes.
    Write,
    /// Store bytes durably.
    WriteFua,
    /// Make all answered writes durable.
    Flush,
    /// Bytes that are not needed any more.
    Trim,
    /// Store zeroes.
    WriteZeroes,
    /// The end of the connection.
    Disconnect,
}

impl Command {
    fn code(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write | Self::WriteFua => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::WriteZeroes => 6,
        }
    }
}

/// An answer: the request's cookie and its error, 0 if it succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The cookie that the request carried.
    pub cookie: u64,
    /// An errno as the protocol has it; 0 is success.
    pub error: u32,
}

/// A connection in its transmission phase.
#[derive(Debug)]
pub struct NbdClient {
    stream: TcpStream,
    size: u64,
    flags: u16,
}

impl NbdClient {
    /// Connects to an export on loopback.
    ///
    /// # Errors
    ///
    /// If nobody listens, the export is refused, or 60 s pass.
    pub fn connect(port: u16, export: &str) -> Result<Self> {
        Self::connect_to(&format!("127.0.0.1:{port}"), export)
    }

    /// Connects to a server elsewhere.
    ///
    /// # Errors
    ///
    /// As [`NbdClient::connect`].
    pub fn connect_to(address: &str, export: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        ensure!(read_u64(&mut stream)? == INIT_MAGIC, "no NBD server");
        ensure!(read_u64(&mut stream)? == OPTION_MAGIC, "no newstyle server");
        let server_flags = read_u16(&mut stream)?;
        ensure!(
            server_flags & FLAG_FIXED_NEWSTYLE != 0,
            "not fixed newstyle"
        );
        let client_flags = u32::from(server_flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));

        let mut message = client_flags.to_be_bytes().to_vec();
        let name_bytes = u32::try_from(export.len())?;
        message.extend(OPTION_MAGIC.to_be_bytes());
        message.extend(OPTION_GO.to_be_bytes());
        message.extend((4 + name_bytes + 2).to_be_bytes());
        message.extend(name_bytes.to_be_bytes());
        message.extend(export.as_bytes());
        message.extend(0u16.to_be_bytes());
        stream.write_all(&message)?;

        let mut export_info = None;
        loop {
            ensure!(
                read_u64(&mut stream)? == OPTION_REPLY_MAGIC,
                "bad option reply"
            );
            ensure!(
                read_u32(&mut stream)? == OPTION_GO,
                "reply to another option"
            );
            let kind = read_u32(&mut stream)?;
            let mut body = vec![0; usize::try_from(read_u32(&mut stream)?)?];
            stream.read_exact(&mut body)?;
            match kind {
                REPLY_ACK => break,
                REPLY_INFO => {
                    let mut body = body.as_slice();
                    if read_u16(&mut body)? == INFO_EXPORT {
                        export_info = Some((read_u64(&mut body)?, read_u16(&mut body)?));
                    }
                }
                _ => bail!(
                    "export refused: {kind:#x} {}",
                    String::from_utf8_lossy(&body)
                ),
            }
        }
        let (size, flags) = export_info.context("the server did not describe the export")?;
        Ok(Self {
            stream,
            size,
            flags,
        })
    }

    /// The export's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The export's transmission flags.
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// The connection itself, for what no sane client sends.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends a request and does not wait. `data` is a write's payload, else empty; `length` the
    /// bytes concerned.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn submit(
        &mut self,
        command: Command,
        cookie: u64,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> Result<()> {
        let flags = if command == Command::WriteFua {
            COMMAND_FUA
        } else {
            0
        };
        let mut message = Vec::with_capacity(28 + data.len());
        message.extend(REQUEST_MAGIC.to_be_bytes());
        message.extend(flags.to_be_bytes());
        message.extend(command.code().to_be_bytes());
        message.extend(cookie.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(length.to_be_bytes());
        message.extend(data);
        self.stream.write_all(&message)?;
        Ok(())
    }

    /// Waits for an answer to any request; `payload_for` says how many bytes follow a successful
    /// answer to a cookie.
    ///
    /// # Errors
    ///
    /// If the connection is gone or the server breaks the protocol.
    pub fn reply(&mut self, payload_for: impl Fn(u64) -> usize) -> Result<(Reply, Vec<u8>)> {
        ensure!(
            read_u32(&mut self.stream)? == SIMPLE_REPLY_MAGIC,
            "bad reply magic"
        );
        let error = read_u32(&mut self.stream)?;
        let cookie = read_u64(&mut self.stream)?;
        let mut data = vec![0; if error == 0 { payload_for(cookie) } else { 0 }];
        self.stream.read_exact(&mut data)?;
        Ok((Reply { cookie, error }, data))
    }

    /// Reads, with nothing else in flight.
    ///
    /// # Errors
    ///
    /// If the connection is gone or the server reports an error.
    pub fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.submit(Command::Read, 0, offset, u32::try_from(length)?, &[])?;
        let (reply, data) = self.reply(|_| length)?;
        ensure!(
            reply.error == 0,
            "read at {offset} failed with error {}",
            reply.error
        );
        Ok(data)
    }

    /// Any other request, with nothing else in flight; gives its error, 0 if it succeeded.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn call(&mut self, command: Command, offset: u64, length: u32, data: &[u8]) -> Result<u32> {
        self.submit(command, 0, offset, length, data)?;
        Ok(self.reply(|_| 0)?.0.error)
    }

    /// Ends the connection as the protocol wants it.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn disconnect(mut self) -> Result<()> {
        self.submit(Command::Disconnect, 0, 0, 0, &[])
    }
}

fn read_bytes<const N: usize>(source: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_u16(source: &mut impl Read) -> Result<u16> {
    Ok(u16::from_be_bytes(read_bytes(source)?))
}

fn read_u32(source: &mut impl Read) -> Result<u32> {
    Ok(u32::from_be_bytes(read_bytes(source)?))
}

fn read_u64(source: &mut impl Read) -> Result<u64> {
    Ok(u64::from_be_bytes(read_bytes(source)?))
}
