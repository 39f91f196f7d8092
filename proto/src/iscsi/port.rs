//! Initiator ports (RFC 7143 section 4.2.8): an initiator, as one of its sessions names it.

use std::fmt;
use std::str::FromStr;

use super::IscsiName;

/// An initiator port. Text form: `NAME,i,0xISID`, with the 12 hexadecimal digits of the ISID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorPort {
    /// The initiator's name.
    pub name: IscsiName,
    /// The initiator's part of the identifier of the session.
    pub isid: [u8; 6],
}

/// The text names no initiator port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no initiator port: give NAME,i,0x and the 12 hexadecimal digits of the ISID")]
pub struct ParsePortError {
    text: Box<str>,
}

impl FromStr for InitiatorPort {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        let error = || ParsePortError {
            text: text.chars().take(80).collect::<String>().into(),
        };
        let (name, isid) = text.split_once(",i,0x").ok_or_else(error)?;
        let name = name.parse().map_err(|_| error())?;
        let is_hex = isid.len() == 12 && isid.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(isid, 16).map_err(|_| error())?;
        let [0, 0, isid @ ..] = number.to_be_bytes() else {
            return Err(error());
        };
        if is_hex {
            Ok(Self { name, isid })
        } else {
            Err(error())
        }
    }
}

impl fmt::Display for InitiatorPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},i,0x", self.name)?;
        self.isid
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

super::text_form!(InitiatorPort);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_survive() {
        let text = "iqn.1994-05.com.redhat:a,i,0x00023d00000a";
        let port: InitiatorPort = text.parse().unwrap();
        assert_eq!(port.isid, [0, 2, 0x3d, 0, 0, 10]);
        assert_eq!(port.to_string(), text);
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            "iqn.1994-05.com.redhat:a",
            "iqn.1994-05.com.redhat:a,i,0x",
            "iqn.1994-05.com.redhat:a,i,0x00023d00000",
            "iqn.1994-05.com.redhat:a,i,0x00023d00000a0",
            "iqn.1994-05.com.redhat:a,i,0x+0023d00000a",
            "iqn.1994-05.com.redhat:a,t,0x00023d00000a",
            "a,i,0x00023d00000a",
        ] {
            assert!(text.parse::<InitiatorPort>().is_err(), "{text:?}");
        }
    }
}
