//! A socket to the kernel: families by name, requests with their answers, and what groups are told.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::{Message, Request, attributes, messages};

/// `GENL_ID_CTRL`: the family that knows the others.
const CONTROL: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// Its version.
const CONTROL_VERSION: u8 = 2;

/// `CTRL_ATTR_…` of linux/genetlink.h.
mod attribute {
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    pub(super) const GROUPS: u16 = 7;
    pub(super) const GROUP_NAME: u16 = 1;
    pub(super) const GROUP_ID: u16 = 2;
}

/// The kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// It refused.
    #[error("the kernel refuses: {0}")]
    Refused(Errno),
    /// The socket failed.
    #[error("netlink failed")]
    Socket(#[from] io::Error),
    /// Its answer lacks what it must have.
    #[error("the kernel's answer lacks what it must have")]
    Strange,
}

/// A family of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// Its id.
    pub id: u16,
    /// Its groups, by name.
    pub groups: Vec<(String, u32)>,
}

/// A socket for one request at a time.
#[derive(Debug)]
pub(crate) struct GenericSocket {
    socket: Socket,
    sequence: u32,
}

impl GenericSocket {
    /// A new one.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The family of a name.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with ENOENT where there is none.
    pub fn family(&mut self, name: &str) -> Result<Family, NetlinkError> {
        let mut request = Request::new(CONTROL, GET_FAMILY, CONTROL_VERSION);
        request.put_text(attribute::FAMILY_NAME, name);
        let answer = self.call(request)?;
        let (_, told) = answer.first().ok_or(NetlinkError::Strange)?;
        family_of(told).ok_or(NetlinkError::Strange)
    }

    /// Has the kernel do something; gives the command and the attributes of each of its answers.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn call(&mut self, request: Request) -> Result<Vec<(u8, Vec<u8>)>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request.finish(self.sequence), 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for (sequence, message) in messages(&bytes) {
                match message {
                    _ if sequence != self.sequence => {}
                    Message::End(0) => return Ok(answers),
                    Message::End(number) => {
                        return Err(NetlinkError::Refused(Errno::from_raw(number)));
                    }
                    Message::Generic {
                        command,
                        attributes,
                        ..
                    } => answers.push((command, attributes.to_vec())),
                }
            }
        }
    }

    /// A socket that hears what a group is told.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn listen(group: u32) -> Result<Self, NetlinkError> {
        let mut this = Self {
            socket: Socket::new(NETLINK_GENERIC)?,
            sequence: 0,
        };
        this.socket.bind_auto()?;
        this.socket.add_membership(group)?;
        this.socket.set_non_blocking(true)?;
        Ok(this)
    }

    /// Waits for messages to its groups; none after `limit`.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`], as where messages were lost.
    pub fn hear(&self, limit: PollTimeout) -> Result<Option<Vec<u8>>, NetlinkError> {
        let mut of = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut of, limit) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(NetlinkError::Socket(error.into())),
        }
        match self.socket.recv_from_full() {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The commands of a family in what was heard, with their attributes.
pub(crate) fn events(bytes: &[u8], of: u16) -> impl Iterator<Item = (u8, &[u8])> {
    messages(bytes).filter_map(move |(_, message)| match message {
        Message::Generic {
            family,
            command,
            attributes,
        } if family == of => Some((command, attributes)),
        _ => None,
    })
}

fn family_of(told: &[u8]) -> Option<Family> {
    let find = |bytes, kind| attributes(bytes).find(|one| one.kind == kind);
    let id = find(told, attribute::FAMILY_ID)?.as_u16()?;
    let groups = find(told, attribute::GROUPS).map_or(&[][..], |groups| groups.value);
    let groups = attributes(groups).filter_map(|group| {
        let name = find(group.value, attribute::GROUP_NAME)?;
        let id = find(group.value, attribute::GROUP_ID)?;
        Some((name.as_text()?.to_owned(), id.as_u32()?))
    });
    Some(Family {
        id,
        groups: groups.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control family answers for itself wherever there is generic netlink.
    #[test]
    fn the_kernel_tells_its_families() {
        let mut socket = GenericSocket::open().unwrap();
        let control = socket.family("nlctrl").unwrap();
        assert_eq!(control.id, CONTROL);
        assert!(control.groups.iter().any(|(name, _)| name == "notify"));
        let none = socket.family("no-such-family").unwrap_err();
        assert!(
            matches!(none, NetlinkError::Refused(Errno::ENOENT)),
            "{none}"
        );
    }
}
