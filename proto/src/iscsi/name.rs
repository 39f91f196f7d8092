//! iSCSI names (RFC 7143 section 4.2.7): which there may be, and which are the same.

use std::fmt;
use std::str::FromStr;

use crate::limits::ISCSI_NAME_BYTES_MAX;

/// Characters of a refused text that are shown.
const SHOWN_MAX: usize = 80;

/// The name of an iSCSI node, initiator or target, in the form that names are compared in: lower
/// case.
///
/// `iqn.YYYY-MM.AUTHORITY[:ANYTHING]`, `eui.` and 16 hexadecimal digits, or `naa.` and 16 or 32 of
/// them; at most [`ISCSI_NAME_BYTES_MAX`] bytes. Of the characters that RFC 3722 leaves out, `_` is
/// let through: virtual machine monitors, and volumes here, have it in names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(String);

impl IscsiName {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text was no iSCSI name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no iSCSI name: give iqn.YYYY-MM.DOMAIN:ANYTHING (letters, digits and - . : _), \
     eui. and 16 hexadecimal digits, or naa. and 16 or 32, {ISCSI_NAME_BYTES_MAX} bytes at most"
)]
pub struct ParseIscsiNameError {
    text: Box<str>,
}

impl FromStr for IscsiName {
    type Err = ParseIscsiNameError;

    fn from_str(text: &str) -> Result<Self, ParseIscsiNameError> {
        let error = || ParseIscsiNameError {
            text: text.chars().take(SHOWN_MAX).collect::<String>().into(),
        };
        let name = fold(text).ok_or_else(error)?;
        let fits = match name.split_once('.').ok_or_else(error)? {
            ("iqn", rest) => is_qualified(rest),
            ("eui", rest) => rest.len() == 16 && is_hex(rest),
            ("naa", rest) => matches!(rest.len(), 16 | 32) && is_hex(rest),
            _ => false,
        };
        if fits { Ok(Self(name)) } else { Err(error()) }
    }
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::text_form!(IscsiName);

/// In lower case, if that is short enough and has no character that no name has.
pub(super) fn fold(text: &str) -> Option<String> {
    // What is far too long is not worth the work; no character becomes shorter than a third.
    if text.len() > ISCSI_NAME_BYTES_MAX * 4 {
        return None;
    }
    let name = text.to_lowercase();
    let fits = name.len() <= ISCSI_NAME_BYTES_MAX && name.chars().all(is_name_character);
    fits.then_some(name)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `YYYY-MM.AUTHORITY[:ANYTHING]`.
fn is_qualified(rest: &str) -> bool {
    let Some((date, name)) = rest.split_once('.') else {
        return false;
    };
    let Some((year, month)) = date.split_once('-') else {
        return false;
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let authority = name.split(':').next().unwrap_or_default();
    year.len() == 4
        && month.len() == 2
        && is_number(year)
        && is_number(month)
        && !authority.is_empty()
}

fn is_name_character(character: char) -> bool {
    match character {
        'a'..='z' | '0'..='9' | '-' | '.' | ':' | '_' => true,
        _ => !character.is_ascii() && character.is_alphanumeric(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_three_kinds_are_taken_and_folded() {
        for name in [
            "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
            "iqn.2008-11.org.linux-kvm",
            "iqn.2026-11.io.ashlar:my_volume",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert_eq!(name.parse::<IscsiName>().unwrap().as_str(), name);
        }
        let folded: IscsiName = "IQN.2001-04.Com.Example:Disk".parse().unwrap();
        assert_eq!(folded.as_str(), "iqn.2001-04.com.example:disk");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("iqn.2001-04.{}", "a".repeat(250));
        let longest = format!("iqn.2001-04.{}", "a".repeat(ISCSI_NAME_BYTES_MAX - 12));
        assert!(longest.parse::<IscsiName>().is_ok());
        for name in [
            "",
            "iqn",
            "iqn.",
            "iqn.2001-04",
            "iqn.2001-04.",
            "iqn.2001-04.:x",
            "iqn.201-04.com.example",
            "iqn.2001-4.com.example",
            "iqn.2001-04.com.example disk",
            "iqn.2001-04.com.example/disk",
            "iqn.2001-04.com.example:*",
            "eui.02004567a425678",
            "eui.02004567a425678g",
            "naa.52004567ba64678d00",
            "mac.112233445566",
            &long,
        ] {
            let refused = name.parse::<IscsiName>();
            assert!(refused.is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_are_texts_in_json() {
        let name: IscsiName = serde_json::from_str(r#""IQN.2026-11.io.ashlar:a""#).unwrap();
        let text = serde_json::to_string(&name).unwrap();
        assert_eq!(text, r#""iqn.2026-11.io.ashlar:a""#);
        let refused = serde_json::from_str::<IscsiName>(r#""data""#).unwrap_err();
        assert!(refused.to_string().contains("`data` is no iSCSI name"));
    }
}
