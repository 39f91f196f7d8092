//! Makes sockets: listening, connecting, and what to call their peers.

use crate::os::check;
use crate::{NetError, OsError};
use ashlar_proto::Address;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use std::fs;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1024;

/// Makes a socket for `address`, whose sockaddr comes along.
pub(crate) fn for_address(address: &Address) -> Result<(Socket, SockAddr), OsError> {
    let (domain, sockaddr) = match address {
        Address::Tcp(tcp) => (Domain::for_address(*tcp), SockAddr::from(*tcp)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        Address::Local(_) => unreachable!("local addresses need no socket"),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive())?;
    }
    Ok((socket, sockaddr))
}

/// A peer whose host has gone without a word is given up after a minute of silence.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3)
}

/// Listens; answers with the address that was bound. Accepted sockets inherit TCP_NODELAY and
/// the keep-alive.
pub(crate) fn listen(address: &Address) -> Result<(OwnedFd, Address), NetError> {
    try_listen(address).map_err(|error| NetError::Listen {
        address: address.clone(),
        error,
    })
}

fn try_listen(address: &Address) -> Result<(OwnedFd, Address), OsError> {
    let (socket, sockaddr) = for_address(address)?;
    let mut bound = address.clone();
    match address {
        Address::Tcp(tcp) => {
            socket.set_reuse_address(true)?;
            if tcp.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&sockaddr)?;
        }
        Address::Unix(path) => bind_unix(&socket, &sockaddr, path)?,
        Address::Local(_) => unreachable!("local addresses need no socket"),
    }
    socket.listen(BACKLOG)?;
    if let Address::Tcp(tcp) = &mut bound
        && let Some(local) = socket.local_addr()?.as_socket()
    {
        *tcp = local;
    }
    Ok((socket.into(), bound))
}

/// A socket file that a dead process left behind is taken over; one that answers is not.
fn bind_unix(socket: &Socket, sockaddr: &SockAddr, path: &Path) -> Result<(), OsError> {
    let Err(error) = socket.bind(sockaddr) else {
        return Ok(());
    };
    let error = OsError::from(error);
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if error.errno() != libc::EADDRINUSE || !is_socket {
        return Err(error);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(sockaddr).map_err(OsError::from) {
        Err(refused) if refused.errno() == libc::ECONNREFUSED => {}
        _ => return Err(error),
    }
    fs::remove_file(path)?;
    socket.bind(sockaddr)?;
    Ok(())
}

/// What to call the other end of a connected socket.
pub(crate) fn peer(fd: &OwnedFd) -> String {
    let socket = socket2::SockRef::from(fd);
    match socket.peer_addr() {
        Ok(address) if address.is_unix() => unix_peer(fd.as_raw_fd()),
        Ok(address) => address
            .as_socket()
            .map_or_else(|| "unknown peer".to_owned(), |tcp| tcp.to_string()),
        Err(_) => "a peer that has gone".to_owned(),
    }
}

/// The address of this end of a connected TCP socket.
pub(crate) fn local(fd: &OwnedFd) -> Option<Address> {
    let address = socket2::SockRef::from(fd).local_addr().ok()?;
    address.as_socket().map(Address::Tcp)
}

/// The process and user at the other end of a Unix socket, as of its connection.
fn unix_peer(fd: RawFd) -> String {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes of a `ucred`.
    let result = check(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    });
    match result {
        Ok(_) => format!("unix pid {} uid {}", credentials.pid, credentials.uid),
        Err(_) => "unix".to_owned(),
    }
}

/// Ends both directions; a socket that is not connected any more has nothing to end.
pub(crate) fn shutdown(fd: &OwnedFd) {
    let _ = socket2::SockRef::from(fd).shutdown(Shutdown::Both);
}
