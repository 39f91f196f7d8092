//! Standard INQUIRY data (SPC-4 section 6.6.2).

use super::fields::Reply;

/// T10 vendor identification.
pub(crate) const VENDOR: &str = "ASHLAR";
const PRODUCT: &str = "VOLUME";
const REVISION: &str = env!("CARGO_PKG_VERSION");

/// SAM-5, iSCSI, SPC-4, SBC-3 (no version claimed).
const VERSION_DESCRIPTORS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

/// Byte 0 where there is no such logical unit: qualifier 011b, device type 1Fh.
pub(crate) const NO_UNIT: u8 = 0x7f;

/// The standard data; `exists` says whether there is a logical unit.
pub(crate) fn standard(exists: bool) -> Vec<u8> {
    let mut reply = Reply::new();
    // SPC-4; HISUP, response data format 2.
    reply.u8(if exists { 0 } else { NO_UNIT });
    reply.u8(0).u8(0x06).u8(0x12).u8(91);
    // TPGS implicit and explicit, 3PC; MULTIP; CMDQUE.
    reply.u8(0x38).u8(0x10).u8(0x02);
    reply.ascii(VENDOR, 8).ascii(PRODUCT, 16).ascii(REVISION, 4);
    reply.zeroes_up_to(58);
    for version in VERSION_DESCRIPTORS {
        reply.u16(version);
    }
    reply.zeroes_up_to(96).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_data_is_as_the_standard_lays_it_out() {
        let data = standard(true);
        assert_eq!(data.len(), 96);
        assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0x38, 0x10, 2]);
        assert_eq!(&data[8..32], b"ASHLAR  VOLUME          ");
        assert_eq!(data[58..66], [0, 0xa0, 9, 0x60, 4, 0x60, 4, 0xc0]);
        assert!(data[66..].iter().all(|&byte| byte == 0));
        assert_eq!(standard(false)[0], 0x7f);
    }
}
