//! The client's part of NBD's fixed newstyle handshake (doc/proto.md of the NBD project): a socket that
//! is in transmission when it is given to the kernel.
//!
//! ```text
//! greeting ─▶ client flags, NBD_OPT_GO ─▶ NBD_INFO_EXPORT, NBD_INFO_BLOCK_SIZE, NBD_REP_ACK
//! ```

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ashlar_proto::Address;
use socket2::{SockRef, TcpKeepalive};

const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const COMMAND_DISCONNECT: u16 = 2;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const ERROR_BIT: u32 = 1 << 31;
const ERROR_UNKNOWN: u32 = ERROR_BIT | 6;
const ERROR_POLICY: u32 = ERROR_BIT | 2;
const ERROR_TLS: u32 = ERROR_BIT | 5;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// What is read of one reply at most: they tell sizes and reasons.
const REPLY_BYTES_MAX: u32 = 64 << 10;
/// The unit of the smallest request of a server that names none.
const BLOCK_BYTES_DEFAULT: u32 = 512;
/// A connection on which nothing that was sent is confirmed for so long is dead.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(20);
/// How long one may be silent before it is asked whether it lives, and how often then.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// `NBD_FLAG_READ_ONLY` of the export.
pub(super) const READ_ONLY: u16 = 1 << 1;
/// `NBD_FLAG_CAN_MULTI_CONN`: connections are as one.
pub(super) const CAN_MULTI_CONN: u16 = 1 << 8;

/// What a server tells of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExportFacts {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its transmission flags.
    pub flags: u16,
    /// The unit of requests, in bytes.
    pub block_bytes: u32,
}

/// A connection in transmission.
#[derive(Debug)]
pub(super) struct Connection {
    link: Link,
    /// What it is to.
    pub export: ExportFacts,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// Nobody answers, or not in time.
    #[error("the NBD server at {address} does not answer: {source}")]
    Silent {
        /// The server.
        address: Address,
        /// What the host says.
        source: io::Error,
    },
    /// It breaks the protocol.
    #[error("what answers at {address} is no NBD server of fixed newstyle: check --nbd")]
    Strange {
        /// The server.
        address: Address,
    },
    /// There is no such export.
    #[error("the NBD server knows no export `{export}`")]
    Unknown {
        /// The export.
        export: String,
    },
    /// The export is this host's no more.
    #[error("the NBD server gives export `{export}` to this host no more: {reason}")]
    Forbidden {
        /// The export.
        export: String,
        /// Its words.
        reason: Reason,
    },
    /// It wants TLS.
    #[error(
        "the NBD server wants TLS, which the kernel's client cannot: give --nbd one on this host that \
         listens on a Unix socket without"
    )]
    WantsTls,
    /// It does not serve the export.
    #[error("the NBD server refuses export `{export}`: {reason}")]
    Refused {
        /// The export.
        export: String,
        /// Its words.
        reason: Reason,
    },
}

/// A server's own words.
#[derive(Debug)]
pub(super) struct Reason(Vec<u8>);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Connection {
    /// Connects to an export; the whole handshake has `limit` for each of its reads.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn open(address: &Address, export: &str, limit: Duration) -> Result<Self, HandshakeError> {
        let silent = |source: io::Error| match source.kind() {
            io::ErrorKind::InvalidData => HandshakeError::Strange {
                address: address.clone(),
            },
            _ => HandshakeError::Silent {
                address: address.clone(),
                source,
            },
        };
        let mut link = Link::open(address, limit).map_err(silent)?;
        let told = negotiate(&mut link, export).map_err(silent)?;
        let export = told.map_err(|(kind, reason)| refusal(kind, export, reason))?;
        link.limit(None).map_err(silent)?;
        Ok(Self { link, export })
    }

    /// The socket's number in this process, for the kernel to take.
    pub fn number(&self) -> RawFd {
        match &self.link {
            Link::Unix(stream) => stream.as_raw_fd(),
            Link::Tcp(stream) => stream.as_raw_fd(),
        }
    }

    /// Ends it as the protocol wants it, where the kernel has not taken it.
    pub fn close(mut self) {
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend([0; 2]);
        request.extend(COMMAND_DISCONNECT.to_be_bytes());
        request.extend([0; 20]);
        // A server that has gone meanwhile needs no word.
        let _ = self.link.write_all(&request);
    }
}

fn refusal(kind: u32, export: &str, reason: Vec<u8>) -> HandshakeError {
    let export = export.to_owned();
    match kind {
        ERROR_UNKNOWN => HandshakeError::Unknown { export },
        ERROR_TLS => HandshakeError::WantsTls,
        ERROR_POLICY => HandshakeError::Forbidden {
            export,
            reason: Reason(reason),
        },
        _ => HandshakeError::Refused {
            export,
            reason: Reason(reason),
        },
    }
}

/// What the server told, or the kind of its error and its words. InvalidData where it is no such server.
type Told = Result<ExportFacts, (u32, Vec<u8>)>;

fn negotiate(link: &mut (impl Read + Write), export: &str) -> io::Result<Told> {
    let strange = || io::Error::from(io::ErrorKind::InvalidData);
    let magics = (read_u64(link)?, read_u64(link)?);
    let server = read_u16(link)?;
    if magics != (INIT_MAGIC, OPTION_MAGIC) || server & FIXED_NEWSTYLE == 0 {
        return Err(strange());
    }
    link.write_all(&go(export, server & (FIXED_NEWSTYLE | NO_ZEROES))?)?;
    let mut facts = None;
    let mut block_bytes = BLOCK_BYTES_DEFAULT;
    loop {
        if (read_u64(link)?, read_u32(link)?) != (REPLY_MAGIC, OPTION_GO) {
            return Err(strange());
        }
        let (kind, length) = (read_u32(link)?, read_u32(link)?);
        if length > REPLY_BYTES_MAX {
            return Err(strange());
        }
        let mut body = vec![0; usize::try_from(length).map_err(|_| strange())?];
        link.read_exact(&mut body)?;
        let mut body_left = body.as_slice();
        match kind {
            REPLY_ACK => break,
            REPLY_INFO => match read_u16(&mut body_left)? {
                INFO_EXPORT => {
                    facts = Some((read_u64(&mut body_left)?, read_u16(&mut body_left)?));
                }
                INFO_BLOCK_SIZE => block_bytes = read_u32(&mut body_left)?,
                _ => {}
            },
            error if error & ERROR_BIT != 0 => return Ok(Err((error, body))),
            _ => return Err(strange()),
        }
    }
    let (size_bytes, flags) = facts.ok_or_else(strange)?;
    Ok(Ok(ExportFacts {
        size_bytes,
        flags,
        block_bytes: block_bytes.max(BLOCK_BYTES_DEFAULT),
    }))
}

/// The client's flags and `NBD_OPT_GO` with a question for the block size.
fn go(export: &str, flags: u16) -> io::Result<Vec<u8>> {
    let name_bytes =
        u32::try_from(export.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut bytes = u32::from(flags).to_be_bytes().to_vec();
    bytes.extend(OPTION_MAGIC.to_be_bytes());
    bytes.extend(OPTION_GO.to_be_bytes());
    bytes.extend((4 + name_bytes + 2 + 2).to_be_bytes());
    bytes.extend(name_bytes.to_be_bytes());
    bytes.extend(export.as_bytes());
    bytes.extend(1u16.to_be_bytes());
    bytes.extend(INFO_BLOCK_SIZE.to_be_bytes());
    Ok(bytes)
}

/// A stream of either kind.
#[derive(Debug)]
enum Link {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Link {
    fn open(address: &Address, limit: Duration) -> io::Result<Self> {
        let link = match address {
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?),
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, limit)?;
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
                socket.set_tcp_keepalive(&keepalive.with_interval(KEEPALIVE_EVERY))?;
                socket.set_tcp_user_timeout(Some(UNCONFIRMED_MAX))?;
                Self::Tcp(stream)
            }
            Address::Local(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        link.limit(Some(limit))?;
        Ok(link)
    }

    /// How long a read or a write may take. The kernel's client must have none: it would take that for
    /// the connection's end.
    fn limit(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_bytes<const N: usize>(source: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_u16(source: &mut impl Read) -> io::Result<u16> {
    Ok(u16::from_be_bytes(read_bytes(source)?))
}

fn read_u32(source: &mut impl Read) -> io::Result<u32> {
    Ok(u32::from_be_bytes(read_bytes(source)?))
}

fn read_u64(source: &mut impl Read) -> io::Result<u64> {
    Ok(u64::from_be_bytes(read_bytes(source)?))
}

#[cfg(test)]
mod tests;
