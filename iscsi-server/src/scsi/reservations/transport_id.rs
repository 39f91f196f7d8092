//! TransportIDs of iSCSI initiator ports (SPC-4 section 7.6.4.6).

use super::state::InitiatorPort;
use crate::scsi::fields::{Reply, byte_at, u16_at};

/// Bytes of the shortest one.
const BYTES_MIN: usize = 24;
/// Longest iSCSI name (RFC 7143 section 4.2.7.1).
const NAME_BYTES_MAX: usize = 223;
/// What stands between the name and the ISID.
const SEPARATOR: &str = ",i,0x";

/// Whom a TransportID names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TransportId {
    /// All ports of the initiator of this name (TPID format 00b).
    Device(String),
    /// One port of it (TPID format 01b).
    Port(InitiatorPort),
}

/// The TransportID of a port, with its padding.
pub(crate) fn encode(port: &InitiatorPort) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u8(0x45).u8(0).u16(0);
    reply
        .bytes(port.name.as_bytes())
        .bytes(SEPARATOR.as_bytes());
    for byte in port.isid {
        reply.bytes(format!("{byte:02x}").as_bytes());
    }
    reply.u8(0).align(4).zeroes_up_to(BYTES_MIN);
    reply.set_len16(2).finish()
}

/// The first TransportID of `bytes`, and how many bytes it takes.
pub(crate) fn decode(bytes: &[u8]) -> Option<(TransportId, usize)> {
    let len = usize::from(u16_at(bytes, 2)) + 4;
    if len < BYTES_MIN || !len.is_multiple_of(4) || byte_at(bytes, 0) & 0x0f != 5 {
        return None;
    }
    let text = bytes.get(4..len)?;
    let end = text.iter().position(|&byte| byte == 0)?;
    let text = std::str::from_utf8(&text[..end]).ok()?;
    let id = match byte_at(bytes, 0) >> 6 {
        0 => TransportId::Device(checked_name(text)?),
        1 => {
            let (name, isid) = text.split_once(SEPARATOR)?;
            let (name, isid) = (checked_name(name)?, decode_isid(isid)?);
            TransportId::Port(InitiatorPort { name, isid })
        }
        _ => return None,
    };
    Some((id, len))
}

fn checked_name(name: &str) -> Option<String> {
    let is_name = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(',');
    is_name.then(|| name.to_owned())
}

fn decode_isid(text: &str) -> Option<[u8; 6]> {
    if text.len() != 12 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(text, 16).ok()?;
    let [_, _, isid @ ..] = value.to_be_bytes();
    Some(isid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_encoded_as_the_standard_has_it() {
        let port = InitiatorPort {
            name: "iqn.a:b".into(),
            isid: [0x40, 0, 1, 0x37, 0, 0xff],
        };
        let bytes = encode(&port);
        assert_eq!(bytes[..4], [0x45, 0, 0, 28]);
        assert_eq!(&bytes[4..29], b"iqn.a:b,i,0x4000013700ff\0");
        assert_eq!(bytes.len(), 32);
        assert_eq!(decode(&bytes), Some((TransportId::Port(port), 32)));
    }

    #[test]
    fn malformed_ones_are_refused() {
        let mut device = vec![0x05, 0, 0, 20];
        device.extend(b"iqn.a:b\0");
        device.resize(24, 0);
        let name = TransportId::Device("iqn.a:b".into());
        assert_eq!(decode(&device), Some((name, 24)));
        assert_eq!(decode(&device[..23]), None);
        let unterminated = [&[0x05, 0, 0, 20][..], &[b'a'; 20]].concat();
        assert_eq!(decode(&unterminated), None);
        device[0] = 0x45;
        assert_eq!(decode(&device), None, "no ISID");
        device[0] = 0x06;
        assert_eq!(decode(&device), None, "SAS");
        assert_eq!(decode(&[]), None);
    }
}
