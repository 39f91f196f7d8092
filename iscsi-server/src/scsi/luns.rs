//! Logical unit numbers: their eight bytes (SAM-5 section 4.7), and REPORT LUNS (SPC-4 section
//! 6.33).

use super::fields::Reply;
use super::sense::Sense;

/// Numbers that fit the flat space format.
const LUNS: u16 = 1 << 14;

/// Which list REPORT LUNS asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Select {
    /// All of them: there are no well known logical units.
    All,
    /// Well known or administrative ones only: there are none.
    WellKnown,
}

impl Select {
    /// By the SELECT REPORT field.
    pub(crate) fn decode(field: u8) -> Result<Self, Sense> {
        match field {
            0x00 | 0x02 | 0x11 => Ok(Self::All),
            0x01 | 0x10 | 0x12 => Ok(Self::WellKnown),
            _ => Err(Sense::cdb(2)),
        }
    }
}

/// The number that an address of one level names: peripheral device or flat space format.
pub(crate) fn number(lun: [u8; 8]) -> Option<u16> {
    if lun[2..] != [0; 6] {
        return None;
    }
    match lun[0] >> 6 {
        0 if lun[0] == 0 => Some(u16::from(lun[1])),
        1 => Some(u16::from_be_bytes([lun[0] & 0x3f, lun[1]])),
        _ => None,
    }
}

/// The address of a number: peripheral device format where it fits, as hosts expect.
pub(crate) fn address(number: u16) -> [u8; 8] {
    let [high, low] = (number % LUNS).to_be_bytes();
    let method = if high == 0 { 0 } else { 0x40 };
    [method | high, low, 0, 0, 0, 0, 0, 0]
}

/// The parameter data of REPORT LUNS.
pub(crate) fn report(select: Select, numbers: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.zeroes(8);
    if select == Select::All {
        for number in numbers {
            reply.bytes(&address(number));
        }
    }
    let list_bytes = u32::try_from(reply.len() - 8).unwrap_or(u32::MAX);
    reply.set(0, &list_bytes.to_be_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_numbers() {
        for number_given in [0, 1, 255, 256, 16_383] {
            assert_eq!(number(address(number_given)), Some(number_given));
        }
        assert_eq!(address(3), [0, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(address(0x0102), [0x41, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(number([0x40, 7, 0, 0, 0, 0, 0, 0]), Some(7));
        assert_eq!(number([0xc1, 1, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(number([0, 1, 0, 2, 0, 0, 0, 0]), None);
        assert_eq!(number([2, 1, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn list_of_no_units_is_well_formed() {
        assert_eq!(report(Select::All, std::iter::empty()), [0; 8]);
        let one = report(Select::All, [1].into_iter());
        assert_eq!(one, [0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(report(Select::WellKnown, [1].into_iter()), [0; 8]);
    }
}
