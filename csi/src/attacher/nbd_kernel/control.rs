//! The kernel's NBD client by generic netlink (`include/uapi/linux/nbd-netlink.h`).
//!
//! The kernel holds the sockets that it is given: they, and the device, outlive this process.

use nix::errno::Errno;

use super::devices::{Backend, DeviceIndex};
use super::handshake::{Connection, ExportFacts};
use crate::netlink::{Attribute, Family, GenericSocket, NetlinkError, Request, attributes, events};

/// The family's name.
const FAMILY: &str = "nbd";
/// The group that is told of dead connections.
const GROUP: &str = "nbd_mc_group";
/// The version of the family's commands.
const VERSION: u8 = 1;
/// How long requests wait for a connection when there is none, in seconds. After it they fail, and what
/// was written and not synced is lost: a whole hour, for the cluster to come back.
const NO_CONNECTION_S: u64 = 3600;

/// `NBD_CMD_…`.
mod command {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const DISCONNECT: u8 = 2;
    pub(super) const RECONFIGURE: u8 = 3;
    pub(super) const LINK_DEAD: u8 = 4;
}

/// `NBD_ATTR_…`.
mod attribute {
    pub(super) const INDEX: u16 = 1;
    pub(super) const SIZE_BYTES: u16 = 2;
    pub(super) const BLOCK_SIZE_BYTES: u16 = 3;
    pub(super) const TIMEOUT: u16 = 4;
    pub(super) const SERVER_FLAGS: u16 = 5;
    pub(super) const SOCKETS: u16 = 7;
    pub(super) const DEAD_CONN_TIMEOUT: u16 = 8;
    pub(super) const BACKEND_IDENTIFIER: u16 = 10;
    /// `NBD_SOCK_ITEM`, and `NBD_SOCK_FD` in it.
    pub(super) const SOCKET_ITEM: u16 = 1;
    pub(super) const SOCKET_FD: u16 = 1;
}

/// What the kernel is asked through.
#[derive(Debug)]
pub(super) struct Control {
    socket: GenericSocket,
    family: Family,
}

impl Control {
    /// Finds the kernel's client.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with ENOENT where the module is not loaded.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = GenericSocket::open()?;
        let family = socket.family(FAMILY)?;
        Ok(Self { socket, family })
    }

    /// Makes a device of the connections to an export; a request without an answer for `timeout_s`
    /// seconds is sent on another one.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn connect(
        &mut self,
        backend: &Backend,
        export: &ExportFacts,
        timeout_s: u64,
        connections: &[Connection],
    ) -> Result<DeviceIndex, NetlinkError> {
        let request = connect(self.family.id, backend, export, timeout_s, connections);
        let answers = self.socket.call(request)?;
        let mut told = answers
            .iter()
            .filter(|(command, _)| *command == command::CONNECT);
        let index = told.find_map(|(_, attributes)| index_of(attributes));
        index.ok_or(NetlinkError::Strange)
    }

    /// Gives a device connections in the place of dead ones; those that it does not need end.
    ///
    /// # Errors
    /// EINVAL where it is not that backend's, or being ended.
    pub fn reconnect(
        &mut self,
        index: DeviceIndex,
        backend: &Backend,
        connections: &[Connection],
    ) -> Result<(), NetlinkError> {
        let mut request = reconfigure(self.family.id, index, backend);
        put_sockets(&mut request, connections);
        self.socket.call(request).map(drop)
    }

    /// Gives a device another size.
    ///
    /// # Errors
    /// As [`Control::reconnect`].
    pub fn resize(
        &mut self,
        index: DeviceIndex,
        backend: &Backend,
        size_bytes: u64,
    ) -> Result<(), NetlinkError> {
        let mut request = reconfigure(self.family.id, index, backend);
        request.put_u64(attribute::SIZE_BYTES, size_bytes);
        self.socket.call(request).map(drop)
    }

    /// Whether a device takes connections: one that is being ended does not.
    ///
    /// # Errors
    /// [`NetlinkError`] where that cannot be found out.
    pub fn lives(&mut self, index: DeviceIndex, backend: &Backend) -> Result<bool, NetlinkError> {
        match self
            .socket
            .call(reconfigure(self.family.id, index, backend))
        {
            Ok(_) => Ok(true),
            Err(NetlinkError::Refused(Errno::EINVAL | Errno::EBUSY)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends a device's connections.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn disconnect(&mut self, index: DeviceIndex) -> Result<(), NetlinkError> {
        let mut request = Request::new(self.family.id, command::DISCONNECT, VERSION);
        request.put_u32(attribute::INDEX, index.get());
        self.socket.call(request).map(drop)
    }

    /// A socket that hears of dead connections.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn listen(&self) -> Result<GenericSocket, NetlinkError> {
        let mut groups = self.family.groups.iter();
        let group = groups.find(|(name, _)| name == GROUP);
        let (_, group) = group.ok_or(NetlinkError::Strange)?;
        GenericSocket::listen(*group)
    }

    /// The devices of which a connection has died, in what was heard.
    pub fn dead(&self, heard: &[u8]) -> Vec<DeviceIndex> {
        let dead = events(heard, self.family.id).filter(|(what, _)| *what == command::LINK_DEAD);
        dead.filter_map(|(_, attributes)| index_of(attributes))
            .collect()
    }
}

fn connect(
    family: u16,
    backend: &Backend,
    export: &ExportFacts,
    timeout_s: u64,
    connections: &[Connection],
) -> Request {
    let mut request = Request::new(family, command::CONNECT, VERSION);
    request.put_u64(attribute::SIZE_BYTES, export.size_bytes);
    request.put_u64(attribute::BLOCK_SIZE_BYTES, export.block_bytes.into());
    request.put_u64(attribute::SERVER_FLAGS, export.flags.into());
    request.put_u64(attribute::TIMEOUT, timeout_s);
    request.put_u64(attribute::DEAD_CONN_TIMEOUT, NO_CONNECTION_S);
    request.put_text(attribute::BACKEND_IDENTIFIER, &backend.to_string());
    put_sockets(&mut request, connections);
    request
}

fn reconfigure(family: u16, index: DeviceIndex, backend: &Backend) -> Request {
    let mut request = Request::new(family, command::RECONFIGURE, VERSION);
    request.put_u32(attribute::INDEX, index.get());
    request.put_text(attribute::BACKEND_IDENTIFIER, &backend.to_string());
    request
}

fn put_sockets(request: &mut Request, connections: &[Connection]) {
    request.nest(attribute::SOCKETS, |sockets| {
        for connection in connections {
            sockets.nest(attribute::SOCKET_ITEM, |socket| {
                socket.put_u32(attribute::SOCKET_FD, connection.number().cast_unsigned());
            });
        }
    });
}

fn index_of(told: &[u8]) -> Option<DeviceIndex> {
    let index = |one: Attribute<'_>| (one.kind == attribute::INDEX).then(|| one.as_u32())?;
    attributes(told).find_map(index).map(DeviceIndex::new)
}

#[cfg(test)]
mod tests {
    use ashlar_proto::VolumeId;

    use super::*;

    /// As the kernel's client takes it; the order is ours.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_device_is_asked_for_in_the_kernels_words() {
        let backend = Backend {
            volume: VolumeId::new(0xabc),
            export: "v".to_owned(),
        };
        let export = ExportFacts {
            size_bytes: 1 << 30,
            flags: 0x12f,
            block_bytes: 512,
        };
        let request = connect(0x20, &backend, &export, 30, &[]);
        let mut expected = vec![
            136, 0, 0, 0, 0x20, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0,
        ];
        expected.extend([12, 0, 2, 0, 0, 0, 0, 0x40, 0, 0, 0, 0]);
        expected.extend([12, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
        expected.extend([12, 0, 5, 0, 0x2f, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend([12, 0, 4, 0, 30, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([12, 0, 8, 0, 0x10, 0x0e, 0, 0, 0, 0, 0, 0]);
        expected.extend([30, 0, 10, 0]);
        expected.extend(b"ashlar:0000000000000abc:v\0\0\0");
        expected.extend([4, 0, 7, 0x80]);
        expected[0] = u8::try_from(expected.len()).unwrap();
        assert_eq!(request.finish(1), expected);
    }

    #[test]
    fn sockets_are_named_by_their_numbers() {
        let mut request = reconfigure(
            0x20,
            DeviceIndex::new(3),
            &Backend {
                volume: VolumeId::new(1),
                export: "v".to_owned(),
            },
        );
        let before = request.clone().finish(1).len();
        put_sockets(&mut request, &[]);
        let bytes = request.finish(1);
        assert_eq!(bytes.len() - before, 4, "no socket is an empty list");
        assert_eq!(index_of(&bytes[20..]), Some(DeviceIndex::new(3)));
    }
}
