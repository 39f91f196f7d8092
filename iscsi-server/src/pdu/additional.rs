//! Additional header segments (RFC 7143 section 11.2.2): the rest of a long CDB, and the read
//! length of a bidirectional command.

use super::{be16, be32};

/// What the additional headers of a SCSI command say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Additional {
    /// The bytes of the CDB beyond the first sixteen.
    pub(crate) cdb_rest: Vec<u8>,
    /// Expected length of what a bidirectional command reads, in bytes.
    pub(crate) read_bytes: Option<u32>,
}

/// Least length field of a segment: it covers one specific byte.
const LENGTH_MIN: usize = 1;
/// Bytes before those that the length field counts.
const PREFIX_BYTES: usize = 3;
const EXTENDED_CDB: u8 = 1;
const READ_LENGTH: u8 = 2;
/// The reserved byte and the read length.
const READ_LENGTH_BYTES: usize = 5;

/// Reads the segments of one command; `None` if they are malformed or repeat themselves.
/// Segments of other types are passed over.
pub(crate) fn parse_additional(bytes: &[u8]) -> Option<Additional> {
    let mut additional = Additional::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (prefix, _) = rest.split_at_checked(PREFIX_BYTES)?;
        let len = usize::from(be16(prefix, 0));
        if len < LENGTH_MIN {
            return None;
        }
        let segment = rest.get(..PREFIX_BYTES + len)?;
        let specific = &segment[PREFIX_BYTES..];
        match prefix[2] & 0x3f {
            EXTENDED_CDB => {
                if len < 2 || !additional.cdb_rest.is_empty() {
                    return None;
                }
                additional.cdb_rest = specific[1..].to_vec();
            }
            READ_LENGTH => {
                if len != READ_LENGTH_BYTES || additional.read_bytes.is_some() {
                    return None;
                }
                additional.read_bytes = Some(be32(specific, 1));
            }
            _ => {}
        }
        let padded = (PREFIX_BYTES + len).next_multiple_of(4);
        rest = rest.get(padded..)?;
    }
    Some(additional)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_cdb_and_a_read_length_are_found() {
        let mut bytes = vec![0, 17, 1, 0];
        bytes.extend(1..=16);
        bytes.extend([0, 5, 2, 0, 0, 0, 2, 0]);
        let additional = parse_additional(&bytes).unwrap();
        assert_eq!(additional.cdb_rest, (1..=16).collect::<Vec<u8>>());
        assert_eq!(additional.read_bytes, Some(512));
    }

    #[test]
    fn malformed_segments_are_refused() {
        for bytes in [
            &[0, 0, 1, 0][..],
            &[0, 9, 1, 0],
            &[0, 1, 1, 0],
            &[0, 4, 2, 0, 0, 0, 0, 0],
            &[0, 5, 2, 0, 0, 0, 2, 0, 0, 5, 2, 0, 0, 0, 2, 0],
            &[1],
        ] {
            assert_eq!(parse_additional(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1024)) {
            let _ = parse_additional(&bytes);
        }
    }
}
