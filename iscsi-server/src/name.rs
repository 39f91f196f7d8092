//! iSCSI names (RFC 7143 section 4.2.7): which there may be, and which are the same.

/// Longest name, in bytes (section 4.2.7.1).
const NAME_BYTES_MAX: usize = 223;

/// The name in the form that names are compared in: lower case. `None` if it is no iSCSI name.
///
/// Of the characters that RFC 3722 leaves out, `_` is let through: virtual machine monitors make
/// names of it.
pub(crate) fn normalise(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let fits = match name.split_once('.')? {
        ("iqn", rest) => is_qualified(rest),
        ("eui", rest) => rest.len() == 16 && is_hex(rest),
        ("naa", rest) => matches!(rest.len(), 16 | 32) && is_hex(rest),
        _ => false,
    };
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
        && name.chars().all(is_name_character)
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
    use proptest::prelude::*;

    #[test]
    fn names_of_the_three_kinds_are_taken_and_folded() {
        let same = |name: &str| assert_eq!(normalise(name).as_deref(), Some(name));
        same("iqn.2001-04.com.example:storage:diskarrays-sn-a8675309");
        same("iqn.2008-11.org.linux-kvm");
        same("iqn.2008-11.org.linux-kvm:my_vm");
        same("eui.02004567a425678d");
        same("naa.52004567ba64678d");
        same("naa.62004567ba64678d0123456789abcdef");
        let folded = normalise("IQN.2001-04.Com.Example:Disk");
        assert_eq!(folded.as_deref(), Some("iqn.2001-04.com.example:disk"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("iqn.2001-04.{}", "a".repeat(250));
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
            "eui.02004567a425678",
            "eui.02004567a425678g",
            "naa.52004567ba64678d00",
            "mac.112233445566",
            &long,
        ] {
            assert_eq!(normalise(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_normalised_name_stays_as_it_is(name in "\\PC{0,40}") {
            if let Some(folded) = normalise(&name) {
                let again = normalise(&folded);
                prop_assert_eq!(again.as_deref(), Some(&*folded));
            }
        }
    }
}
