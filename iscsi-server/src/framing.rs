//! PDUs on their way: digests, padding and lengths, in both directions.
//!
//! Invariant: what a peer says of lengths is held against our limits before a byte of it is
//! received or memory for it taken.

use crate::parameters::{ConnectionParameters, RECEIVE_SEGMENT_MAX};
use crate::pdu::{BHS_BYTES, Bhs, DIGEST_BYTES, Digest, Frame, digest_of, padding};
use ashlar_front_end::{Input, Outbox, TransportError};
use ashlar_reactor::{Buffer, SharedBuffer};

/// Why the stream of PDUs cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FramingError {
    /// The connection failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Headers were damaged on their way: where the next PDU begins is not known.
    #[error("header digest does not fit the header")]
    HeaderDigest,
    /// A data segment is longer than was declared.
    #[error("data segment of {0} bytes is longer than what was declared")]
    SegmentTooLong(usize),
}

/// The headers of a PDU that came.
pub(crate) struct Head {
    pub(crate) bhs: Bhs,
    pub(crate) additional: Vec<u8>,
    /// Of its data segment, which is still to be received.
    pub(crate) data_bytes: usize,
}

/// Receives the headers of the next PDU.
///
/// # Errors
/// [`FramingError`].
pub(crate) async fn receive_head(
    input: &mut Input,
    parameters: &ConnectionParameters,
) -> Result<Head, FramingError> {
    input.fill(BHS_BYTES).await?;
    let mut bhs = [0; BHS_BYTES];
    bhs.copy_from_slice(&input.available()[..BHS_BYTES]);
    let frame = Frame::of(&bhs);
    if frame.data_bytes > RECEIVE_SEGMENT_MAX {
        return Err(FramingError::SegmentTooLong(frame.data_bytes));
    }
    let header_bytes = BHS_BYTES + frame.additional_bytes;
    let digest_bytes = if parameters.header_digest {
        DIGEST_BYTES
    } else {
        0
    };
    input.fill(header_bytes + digest_bytes).await?;
    let (header, digest) = input.available()[..header_bytes + digest_bytes].split_at(header_bytes);
    if parameters.header_digest && digest != digest_of(&[header]) {
        return Err(FramingError::HeaderDigest);
    }
    let head = Head {
        bhs,
        additional: header[BHS_BYTES..].to_vec(),
        data_bytes: frame.data_bytes,
    };
    input.consume(header_bytes + digest_bytes);
    Ok(head)
}

/// Bytes that follow a data segment of `len` bytes.
fn trailer_bytes(parameters: &ConnectionParameters, len: usize) -> usize {
    let digest = if parameters.data_digest {
        DIGEST_BYTES
    } else {
        0
    };
    if len == 0 { 0 } else { padding(len) + digest }
}

/// Receives a data segment and forgets it.
///
/// # Errors
/// [`TransportError`].
pub(crate) async fn skip_data(
    input: &mut Input,
    parameters: &ConnectionParameters,
    len: usize,
) -> Result<(), TransportError> {
    let all = len + trailer_bytes(parameters, len);
    input.skip(all as u64).await
}

/// Receives a short data segment; `None` if it was damaged on its way.
///
/// # Errors
/// [`TransportError`].
pub(crate) async fn receive_data(
    input: &mut Input,
    parameters: &ConnectionParameters,
    len: usize,
) -> Result<Option<Vec<u8>>, TransportError> {
    let all = len + trailer_bytes(parameters, len);
    input.fill(all).await?;
    let (data, trailer) = input.available()[..all].split_at(len);
    let (pad, digest) = trailer.split_at(if len == 0 { 0 } else { padding(len) });
    let is_whole = digest.is_empty() || digest == digest_of(&[data, pad]);
    let data = is_whole.then(|| data.to_vec());
    input.consume(all);
    Ok(data)
}

/// Receives a data segment of `len` bytes into `buffer` from `offset` on, as much as `keep` says,
/// and forgets the rest. Tells whether it came undamaged; what is forgotten is not looked at.
///
/// # Errors
/// [`TransportError`].
pub(crate) async fn receive_into(
    input: &mut Input,
    parameters: &ConnectionParameters,
    buffer: Buffer,
    (offset, keep, len): (usize, usize, usize),
) -> (Buffer, Result<bool, TransportError>) {
    let (buffer, received) = input.payload_into(buffer, offset, keep).await;
    if let Err(error) = received {
        return (buffer, Err(error));
    }
    let kept = &buffer[offset..offset + keep];
    let checked = receive_trailer(input, parameters, kept, len).await;
    (buffer, checked)
}

async fn receive_trailer(
    input: &mut Input,
    parameters: &ConnectionParameters,
    kept: &[u8],
    len: usize,
) -> Result<bool, TransportError> {
    let rest = len - kept.len() + trailer_bytes(parameters, len);
    if kept.len() < len || !parameters.data_digest {
        input.skip(rest as u64).await?;
        return Ok(true);
    }
    input.fill(rest).await?;
    let (pad, digest) = input.available()[..rest].split_at(padding(len));
    let is_whole = digest == digest_of(&[kept, pad]);
    input.consume(rest);
    Ok(is_whole)
}

/// The data of a PDU on its way out.
pub(crate) enum Segment<'a> {
    Bytes(&'a [u8]),
    /// Sent from where it lies.
    Shared(&'a [SharedBuffer]),
}

impl Segment<'_> {
    /// No data.
    pub(crate) const NONE: Self = Self::Bytes(&[]);

    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Shared(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
        }
    }

    fn digest(&self, pad: &[u8]) -> [u8; DIGEST_BYTES] {
        match self {
            Self::Bytes(bytes) => digest_of(&[bytes, pad]),
            Self::Shared(pieces) => {
                let mut digest = Digest::new();
                for piece in *pieces {
                    digest.update(piece);
                }
                digest.update(pad);
                digest.wire()
            }
        }
    }
}

/// Appends a PDU without additional headers.
///
/// # Panics
/// If the data is 16 MiB or more: callers keep to what the initiator declared.
pub(crate) fn put_pdu(
    outbox: &mut Outbox,
    parameters: &ConnectionParameters,
    mut bhs: Bhs,
    data: &Segment<'_>,
) {
    let len = data.len();
    let [high, length @ ..] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    assert_eq!(high, 0, "a data segment is below 16 MiB");
    bhs[5..8].copy_from_slice(&length);
    outbox.put(&bhs);
    if parameters.header_digest {
        outbox.put(&digest_of(&[&bhs]));
    }
    if len == 0 {
        return;
    }
    match data {
        Segment::Bytes(bytes) => outbox.put(bytes),
        Segment::Shared(pieces) => pieces.iter().for_each(|piece| outbox.share(piece.clone())),
    }
    let pad = &[0; 3][..padding(len)];
    outbox.put(pad);
    if parameters.data_digest {
        outbox.put(&data.digest(pad));
    }
}
