//! What sessions and connections are negotiated to (RFC 7143 section 13), and what we offer.

/// Longest data segment that we take in, in bytes: what we declare as
/// `MaxRecvDataSegmentLength`.
pub(crate) const RECEIVE_SEGMENT_MAX: usize = 256 << 10;
/// What a side takes that has declared nothing (section 13.12).
pub(crate) const SEGMENT_DEFAULT: usize = 8192;
/// Longest burst, in bytes: the most that the key can say.
pub(crate) const BURST_MAX: u32 = (1 << 24) - 1;
/// Most unsolicited data of a command, in bytes.
pub(crate) const FIRST_BURST_MAX: u32 = 256 << 10;
/// Connections of a session.
pub(crate) const CONNECTIONS_MAX: u16 = 8;
/// R2Ts of a command that wait for their data at a time.
pub(crate) const OUTSTANDING_R2T_MAX: u16 = 8;
/// The protocol level of RFC 7144: its task management functions are there.
pub(crate) const PROTOCOL_LEVEL: u8 = 2;
/// The first level that has them.
pub(crate) const PROTOCOL_LEVEL_SAM5: u8 = 2;

/// What holds for all connections of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionParameters {
    pub(crate) connections_max: u16,
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    pub(crate) burst_max: u32,
    /// At most `burst_max`.
    pub(crate) first_burst_max: u32,
    pub(crate) outstanding_r2t_max: u16,
    pub(crate) protocol_level: u8,
}

/// What holds when nothing is negotiated.
impl Default for SessionParameters {
    fn default() -> Self {
        Self {
            connections_max: 1,
            initial_r2t: true,
            immediate_data: true,
            burst_max: 256 << 10,
            first_burst_max: 64 << 10,
            outstanding_r2t_max: 1,
            protocol_level: 1,
        }
    }
}

/// What holds for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionParameters {
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    /// Longest data segment that the initiator takes.
    pub(crate) send_segment_max: usize,
}

impl Default for ConnectionParameters {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            send_segment_max: SEGMENT_DEFAULT,
        }
    }
}

const _: () = assert!(RECEIVE_SEGMENT_MAX >= SEGMENT_DEFAULT);
const _: () = assert!(FIRST_BURST_MAX <= BURST_MAX);
