//! Vital product data (SPC-4 section 7.8, SBC-3 section 6.5).

use super::Nexus;
use super::capacity::{
    BLOCK_BYTES, COMPARE_BLOCKS_MAX, PHYSICAL_BLOCKS, TRANSFER_BLOCKS_MAX, TRANSFER_BLOCKS_OPTIMAL,
    UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BLOCKS_MAX,
};
use super::copy;
use super::fields::Reply;
use super::inquiry::VENDOR;
use super::sense::Sense;

/// The pages there are, in order.
const PAGES: [u8; 10] = [0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2];

/// A page of the logical unit of this id, as this nexus reaches it.
pub(crate) fn page(page: u8, id: u128, nexus: &Nexus) -> Result<Vec<u8>, Sense> {
    let mut reply = Reply::new();
    reply.u8(0).u8(page).u16(0);
    match page {
        0x00 => reply.bytes(&PAGES),
        0x80 => reply.bytes(serial_number(id).as_bytes()),
        0x83 => device_identification(&mut reply, id, nexus),
        // HEADSUP, ORDSUP, SIMPSUP; V_SUP; LUICLR.
        0x86 => reply.u8(0).u8(0x07).u8(0x01).u8(0x01).zeroes_up_to(64),
        // All mode pages are shared by all nexuses.
        0x87 => reply.bytes(&[0x3f, 0xff, 0, 0]),
        0x88 => ports(&mut reply, nexus),
        0x8f => copy::third_party_page(&mut reply),
        0xb0 => block_limits(&mut reply),
        // Non-rotating; WABEREQ: reads after a block erase succeed.
        0xb1 => reply.u16(1).u8(0).u8(0x40).zeroes_up_to(64),
        // LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned.
        0xb2 => reply.u8(0).u8(0xe4).u8(0x02).u8(0),
        _ => return Err(Sense::cdb(2)),
    };
    Ok(reply.set_len16(2).finish())
}

/// The unit serial number, also in the T10 designator.
pub(crate) fn serial_number(id: u128) -> String {
    format!("{id:032x}")
}

/// The NAA designator: locally assigned (3h), with 60 bits of the id.
pub(crate) fn naa(id: u128) -> [u8; 8] {
    const LOW: u128 = (1 << 64) - 1;
    let folded = u64::try_from((id >> 64) ^ (id & LOW)).unwrap_or(0);
    (folded & ((1 << 60) - 1) | 3 << 60).to_be_bytes()
}

/// Appends a designation descriptor (SPC-4 section 7.8.6.1).
fn designator(reply: &mut Reply, code_set: u8, kind: u8, bytes: &[u8]) {
    /// PROTOCOL IDENTIFIER: iSCSI.
    const ISCSI: u8 = 0x50;
    /// PIV.
    const VALID: u8 = 0x80;
    let (protocol, valid) = if kind >> 4 == 0 {
        (0, 0)
    } else {
        (ISCSI, VALID)
    };
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    reply.u8(protocol | code_set).u8(valid | kind).u8(0);
    reply.u8(len).bytes(&bytes[..usize::from(len)]);
}

/// A SCSI name string: ended by a zero, in multiples of four bytes.
fn name_string(name: &str) -> Vec<u8> {
    let mut padded = Reply::new();
    padded.bytes(name.as_bytes()).u8(0).align(4).finish()
}

fn device_identification<'a>(reply: &'a mut Reply, id: u128, nexus: &Nexus) -> &'a mut Reply {
    let mut t10 = Reply::new();
    t10.ascii(VENDOR, 8).bytes(serial_number(id).as_bytes());
    designator(reply, 2, 0x01, &t10.finish());
    designator(reply, 1, 0x03, &naa(id));
    let [high, low] = nexus.portal_group.to_be_bytes();
    designator(reply, 1, 0x14, &[0, 0, high, low]);
    designator(reply, 1, 0x15, &[0, 0, high, low]);
    designator(reply, 3, 0x18, &name_string(&port_name(nexus)));
    designator(reply, 3, 0x28, &name_string(&nexus.target));
    reply
}

/// The target port's name (RFC 7143 section 4.2.7.1).
fn port_name(nexus: &Nexus) -> String {
    format!("{},t,{:#06x}", nexus.target, nexus.portal_group)
}

/// The SCSI ports page: the one port that the unit is reached through.
fn ports<'a>(reply: &'a mut Reply, nexus: &Nexus) -> &'a mut Reply {
    let mut designators = Reply::new();
    designator(&mut designators, 3, 0x18, &name_string(&port_name(nexus)));
    let len = u16::try_from(designators.len()).unwrap_or(0);
    reply.u16(0).u16(nexus.portal_group).u32(0).u16(0).u16(len);
    reply.bytes(&designators.finish())
}

fn block_limits(reply: &mut Reply) -> &mut Reply {
    /// UGAVALID, with an alignment of 0.
    const ALIGNMENT: u32 = 1 << 31;
    let granularity = u16::try_from(PHYSICAL_BLOCKS).unwrap_or(1);
    const { assert!(PHYSICAL_BLOCKS as u64 * BLOCK_BYTES == 4096) };
    reply.u8(0).u8(COMPARE_BLOCKS_MAX).u16(granularity);
    reply.u32(TRANSFER_BLOCKS_MAX).u32(TRANSFER_BLOCKS_OPTIMAL);
    reply
        .u32(0)
        .u32(UNMAP_BLOCKS_MAX)
        .u32(UNMAP_DESCRIPTORS_MAX);
    reply.u32(PHYSICAL_BLOCKS).u32(ALIGNMENT);
    reply.u64(WRITE_SAME_BLOCKS_MAX.into()).zeroes_up_to(64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::NexusId;

    const ID: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;

    fn nexus() -> Nexus {
        Nexus {
            id: NexusId(1),
            initiator: "iqn.i".into(),
            isid: [0; 6],
            target: "iqn.t".into(),
            portal_group: 1,
        }
    }

    #[test]
    fn every_page_that_is_listed_is_there_and_measured() {
        let listed = page(0, ID, &nexus()).unwrap();
        assert!(listed[4..].is_sorted());
        for &code in &listed[4..] {
            let page = page(code, ID, &nexus()).unwrap();
            assert_eq!(page[..2], [0, code]);
            let len = u16::from_be_bytes([page[2], page[3]]);
            assert_eq!(usize::from(len), page.len() - 4);
        }
        assert_eq!(page(0xb9, ID, &nexus()), Err(Sense::cdb(2)));
    }

    #[test]
    fn device_identification_names_unit_port_group_and_target() {
        let mut expected = vec![0, 0x83, 0, 0];
        expected.extend([2, 1, 0, 40]);
        expected.extend(b"ASHLAR  00112233445566778899aabbccddeeff");
        let naa = [0x38, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88];
        expected.extend([1, 3, 0, 8]);
        expected.extend(naa);
        expected.extend([0x51, 0x94, 0, 4, 0, 0, 0, 1]);
        expected.extend([0x51, 0x95, 0, 4, 0, 0, 0, 1]);
        expected.extend([0x53, 0x98, 0, 16]);
        expected.extend(b"iqn.t,t,0x0001\0\0");
        expected.extend([0x53, 0xa8, 0, 8]);
        expected.extend(b"iqn.t\0\0\0");
        expected[3] = u8::try_from(expected.len() - 4).unwrap();
        assert_eq!(page(0x83, ID, &nexus()).unwrap(), expected);
    }

    #[test]
    fn block_limits_are_laid_out_as_sbc_3_has_it() {
        let mut expected = [0; 64];
        expected[..8].copy_from_slice(&[0, 0xb0, 0, 60, 0, 255, 0, 8]);
        expected[8..16].copy_from_slice(&[0, 1, 0, 0, 0, 0, 8, 0]);
        expected[20..28].copy_from_slice(&[0, 0x10, 0, 0, 0, 0, 1, 0]);
        expected[28..36].copy_from_slice(&[0, 0, 0, 8, 0x80, 0, 0, 0]);
        expected[36..44].copy_from_slice(&[0, 0, 0, 0, 0, 0x10, 0, 0]);
        assert_eq!(page(0xb0, ID, &nexus()).unwrap(), expected);
    }

    #[test]
    fn provisioning_page_says_thin_and_zeroes() {
        let page = page(0xb2, ID, &nexus()).unwrap();
        assert_eq!(page, [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
    }
}
