//! LOG SENSE (SPC-4 sections 6.7 and 7.3): the list of pages, and informational exceptions.

use super::fields::Reply;
use super::sense::Sense;

/// Page codes and subpage codes, in order.
const PAGES: [(u8, u8); 4] = [(0x00, 0x00), (0x00, 0xff), (0x2f, 0x00), (0x2f, 0xff)];

/// The parameter data of a page.
pub(crate) fn sense(page: u8, subpage: u8) -> Result<Vec<u8>, Sense> {
    let mut reply = Reply::new();
    // SPF where the page has a subpage.
    let flags = if subpage == 0 { 0 } else { 0x40 };
    reply.u8(flags | page).u8(subpage).u16(0);
    match (page, subpage) {
        (0x00, 0x00) => {
            for (page, _) in PAGES.into_iter().filter(|page| page.1 == 0) {
                reply.u8(page);
            }
        }
        (0x00, 0xff) => {
            for (page, subpage) in PAGES {
                reply.u8(page).u8(subpage);
            }
        }
        // General: no exception, and no temperature.
        (0x2f, 0x00) => {
            reply.u16(0).u8(0x03).u8(4).u16(0).u8(0xff).u8(0);
        }
        (0x2f, 0xff) => {
            reply.bytes(&[0x2f, 0x00, 0x2f, 0xff]);
        }
        _ if PAGES.iter().any(|known| known.0 == page) => return Err(Sense::cdb(3)),
        _ => return Err(Sense::cdb_bit(2, 5)),
    }
    Ok(reply.set_len16(2).finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_listed_and_told() {
        assert_eq!(sense(0, 0), Ok(vec![0, 0, 0, 2, 0, 0x2f]));
        let told = vec![0x2f, 0, 0, 8, 0, 0, 3, 4, 0, 0, 0xff, 0];
        assert_eq!(sense(0x2f, 0), Ok(told));
        for (page, subpage) in PAGES {
            assert!(sense(page, subpage).is_ok());
        }
        assert_eq!(sense(0x0d, 0), Err(Sense::cdb_bit(2, 5)));
        assert_eq!(sense(0x2f, 1), Err(Sense::cdb(3)));
    }
}
