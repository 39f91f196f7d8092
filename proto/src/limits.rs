//! Every limit of the wire and of the addressing scheme, in one place, each with its derivation.

use std::time::Duration;

/// Bytes in a block: the unit of checksums, versions and maps.
pub const BLOCK_BYTES: usize = 4096;

/// [`BLOCK_BYTES`] as a `u64`, for arithmetic on offsets.
pub const BLOCK_BYTES_U64: u64 = 4096;

/// Bytes in a shard unless the volume says otherwise.
pub const SHARD_BYTES_DEFAULT: u64 = 4 << 30;

/// Blocks that one frame may carry as payload: 1 MiB, one leaf of the map.
pub const FRAME_DATA_BLOCKS_MAX: u16 = 256;

/// Blocks of one leaf of the map.
pub const LEAF_BLOCKS: u64 = 256;

/// Bytes of metadata (checksums, tails, text) that one frame may carry.
pub const FRAME_META_BYTES_MAX: usize = 65535 * 4;

/// Blocks that one zeroing frame may name: a whole default shard.
pub const ZERO_BLOCKS_MAX: u32 = 1 << 20;

/// Smallest and largest volume, in bytes.
pub const VOLUME_BYTES_MIN: u64 = 1 << 20;
/// Largest volume, in bytes: 4 PiB.
pub const VOLUME_BYTES_MAX: u64 = 1 << 52;

/// Longest name of a volume, node or label, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Replicas of a volume: copies of each block that it asks for.
pub const REPLICAS_MAX: usize = 3;

/// Replicas of a shard: one more than its volume asks for while one of them is being replaced.
pub const SLOTS_MAX: usize = REPLICAS_MAX + 1;

/// Replicas that one disk reports as missing at a time; the others follow once these are dealt with.
pub const MISSING_REPORTED_MAX: usize = 256;

/// Replicas of which one disk reports what they take: those that take the most.
pub const USES_REPORTED_MAX: usize = 32;

/// How far an owner may run ahead of `stable`, in seqs (2²³; a window holds 2²⁴).
pub const SEQ_AHEAD_MAX: u64 = 1 << 23;

/// Requests in flight on one replica connection.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1024;

/// How long an owner may go on reading after it asked the replicas that last confirmed it: it shows
/// nothing that it reads unless as many as acknowledge a write have answered, in its generation,
/// what it asked within this time.
pub const READ_LEASE: Duration = Duration::from_secs(4);

/// How long who takes over waits, after the last answer that counts, before it leaves replicas out
/// that did not answer: an older owner may have them to itself. A quarter more than [`READ_LEASE`]:
/// so far may two clocks drift apart.
pub const READ_LEASE_WAIT: Duration = Duration::from_secs(5);

/// Volumes whose maps one question to the conductor may be about.
pub const MAPS_ASKED_MAX: usize = 4096;

/// Maps in the answer to one such question; who has been answered is no longer asked for, so the rest
/// follows.
pub const MAPS_ANSWERED_MAX: usize = 64;

/// Most volumes of which snapshots are made as one group.
pub const GROUP_VOLUMES_MAX: usize = 64;

/// How long an owner holds back writes for a group of snapshots at most.
pub const HOLD_MAX: Duration = Duration::from_secs(1);

/// How long the conductor waits until all owners of a group hold back writes. What is left of
/// [`HOLD_MAX`] is for the seal, and for the news of it.
pub const HOLD_WAIT: Duration = Duration::from_millis(800);

/// Longest iSCSI name, in bytes (RFC 7143 section 4.2.7.1).
pub const ISCSI_NAME_BYTES_MAX: usize = 223;

/// The greatest number of a logical unit (SAM-5 section 4.7.7.3).
pub const LUN_MAX: u16 = 16383;

/// iSCSI targets of a cluster.
pub const TARGETS_MAX: usize = 1024;

/// iSCSI servers of a cluster: what REPORT TARGET PORT GROUPS shows of each path, hosts keep.
pub const SERVERS_MAX: usize = 64;

/// Portals of an iSCSI server.
pub const SERVER_PORTALS_MAX: usize = 16;

/// Longest portal, in bytes: the name of a host, and a port.
pub const PORTAL_BYTES_MAX: usize = 261;

/// Logical units of a target.
pub const TARGET_UNITS_MAX: usize = 256;

/// Entries of a target's access list.
pub const TARGET_INITIATORS_MAX: usize = 256;

/// Secrets by which initiators may show a target who they are.
pub const TARGET_SECRETS_MAX: usize = 256;

/// Longest name of CHAP, in bytes (RFC 7143 section 12.1.3 has the value of any key as its bound, 255).
pub const CHAP_NAME_BYTES_MAX: usize = 255;

/// Shortest secret of CHAP, in bytes: 96 bits, without which RFC 7143 section 9.2.1 wants IPsec.
pub const CHAP_SECRET_BYTES_MIN: usize = 12;

/// Longest secret of CHAP, in bytes.
pub const CHAP_SECRET_BYTES_MAX: usize = 255;

/// Registrations of persistent reservations of one logical unit.
pub const REGISTRATIONS_MAX: usize = 1024;

/// Longest name of an initiator port: an iSCSI name, `,i,0x` and 12 digits (RFC 7143 section
/// 4.2.8).
pub const INITIATOR_PORT_BYTES_MAX: usize = ISCSI_NAME_BYTES_MAX + 17;

const _: () = assert!(HOLD_WAIT.as_millis() < HOLD_MAX.as_millis());
// The checksums of a full frame and the entries of a read reply (16 bytes a block) fit its meta.
const _: () = assert!(FRAME_DATA_BLOCKS_MAX as usize * 16 + 64 <= FRAME_META_BYTES_MAX);
const _: () = assert!(SHARD_BYTES_DEFAULT / BLOCK_BYTES_U64 <= ZERO_BLOCKS_MAX as u64);
const _: () = assert!(SEQ_AHEAD_MAX < 1 << 24);
const _: () = assert!(READ_LEASE_WAIT.as_millis() * 4 >= READ_LEASE.as_millis() * 5);
