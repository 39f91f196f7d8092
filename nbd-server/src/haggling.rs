//! Options of the handshake and the replies to them: parsing and encoding, all pure.

use crate::catalog::ExportInfo;
use crate::contexts::Context;
use crate::request::Dialect;
use crate::wire::{Fields, OPTION_MAGIC, OPTION_REPLY_MAGIC, info, option_reply, transmission};
use ashlar_client::Geometry;

/// Bytes of the header of an option: magic, option, length of its data.
pub(crate) const OPTION_HEADER_BYTES: usize = 16;

/// The header of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OptionHeader {
    pub(crate) option: u32,
    pub(crate) data_bytes: u32,
}

impl OptionHeader {
    /// Reads a header; `None` without its magic.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.u64()? != OPTION_MAGIC {
            return None;
        }
        Some(Self {
            option: fields.u32()?,
            data_bytes: fields.u32()?,
        })
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InfoRequest<'a> {
    pub(crate) name: &'a str,
    pub(crate) wants_name: bool,
    pub(crate) wants_description: bool,
}

impl<'a> InfoRequest<'a> {
    /// Reads the data; `None` if it is malformed.
    pub(crate) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(data);
        let len = fields.u32()?;
        let mut request = Self {
            name: fields.string(len)?,
            wants_name: false,
            wants_description: false,
        };
        for _ in 0..fields.u16()? {
            match fields.u16()? {
                info::NAME => request.wants_name = true,
                info::DESCRIPTION => request.wants_description = true,
                _ => {}
            }
        }
        fields.is_empty().then_some(request)
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetaRequest<'a> {
    pub(crate) name: &'a str,
    pub(crate) queries: Vec<&'a str>,
}

impl<'a> MetaRequest<'a> {
    /// Reads the data; `None` if it is malformed.
    pub(crate) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(data);
        let len = fields.u32()?;
        let name = fields.string(len)?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            let len = fields.u32()?;
            queries.push(fields.string(len)?);
        }
        fields.is_empty().then_some(Self { name, queries })
    }
}

/// The transmission flags of an export; `has_status` if block status requests have an answer.
pub(crate) fn transmission_flags(geometry: &Geometry, dialect: Dialect, has_status: bool) -> u16 {
    use transmission as flag;
    let mut flags = flag::HAS_FLAGS
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_TRIM
        | flag::SEND_WRITE_ZEROES
        | flag::SEND_FAST_ZERO
        | flag::SEND_CACHE
        | flag::CAN_MULTI_CONN;
    if geometry.read_only {
        flags |= flag::READ_ONLY;
    }
    if dialect != Dialect::Simple {
        flags |= flag::SEND_DF;
    }
    if dialect == Dialect::Extended && has_status {
        flags |= flag::BLOCK_STATUS_PAYLOAD;
    }
    flags
}

/// Replies to one option, gathered to be sent together.
pub(crate) struct OptionReplies {
    option: u32,
    bytes: Vec<u8>,
}

impl OptionReplies {
    pub(crate) fn to(option: u32) -> Self {
        Self {
            option,
            bytes: Vec::new(),
        }
    }

    fn put(&mut self, kind: u32, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(len).expect("replies to options are short");
        self.bytes.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        self.bytes.extend(self.option.to_be_bytes());
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(len.to_be_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }

    pub(crate) fn server(&mut self, export: &ExportInfo) {
        let len = u32::try_from(export.name.len()).expect("names are short");
        let description = export.description.as_deref().unwrap_or_default();
        self.put(
            option_reply::SERVER,
            &[
                &len.to_be_bytes(),
                export.name.as_bytes(),
                description.as_bytes(),
            ],
        );
    }

    pub(crate) fn export(&mut self, geometry: &Geometry, flags: u16) {
        self.put(
            option_reply::INFO,
            &[
                &info::EXPORT.to_be_bytes(),
                &geometry.size_bytes.to_be_bytes(),
                &flags.to_be_bytes(),
            ],
        );
        self.put(
            option_reply::INFO,
            &[
                &info::BLOCK_SIZE.to_be_bytes(),
                &geometry.block_bytes_min.to_be_bytes(),
                &geometry.block_bytes_preferred.to_be_bytes(),
                &geometry.request_bytes_max.to_be_bytes(),
            ],
        );
    }

    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.put(option_reply::INFO, &[&kind.to_be_bytes(), text.as_bytes()]);
    }

    pub(crate) fn context(&mut self, id: u32, context: &Context) {
        let name = context.name();
        self.put(
            option_reply::META_CONTEXT,
            &[&id.to_be_bytes(), name.as_bytes()],
        );
    }

    pub(crate) fn ack(mut self) -> Vec<u8> {
        self.put(option_reply::ACK, &[]);
        self.bytes
    }

    /// Ends with an error and a sentence for people.
    pub(crate) fn error(mut self, kind: u32, reason: &str) -> Vec<u8> {
        let end = reason.floor_char_boundary(crate::wire::STRING_BYTES_MAX);
        self.put(kind, &[&reason.as_bytes()[..end]]);
        self.bytes
    }
}

#[cfg(test)]
mod tests;
