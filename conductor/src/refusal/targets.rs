//! Why iSCSI targets and persistent reservations cannot be changed as asked.

use ashlar_proto::api::{ChapLogin, ReservationsError};
use ashlar_proto::limits::{CHAP_NAME_BYTES_MAX, CHAP_SECRET_BYTES_MAX, CHAP_SECRET_BYTES_MIN};
use ashlar_proto::{InitiatorPattern, IscsiName, Lun};

use super::names;

/// Longest alias of a target, in bytes: what a value of a key of a login may have (RFC 7143 section
/// 6.1).
const ALIAS_BYTES_MAX: usize = 255;

/// A field of a request about targets is out of range.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error("an alias is 1 to {ALIAS_BYTES_MAX} bytes of text without control characters")]
    Alias,
    #[error("a CHAP name is 1 to {CHAP_NAME_BYTES_MAX} bytes of text without control characters")]
    ChapName,
    #[error(
        "a CHAP secret is {CHAP_SECRET_BYTES_MIN} to {CHAP_SECRET_BYTES_MAX} bytes of text without \
         control characters; `openssl rand -hex 16` makes a good one"
    )]
    ChapSecret,
    #[error("the target's own secret is shown to all initiators alike: give no initiator with it")]
    MutualOfOne,
    #[error("these reservations are not possible: {0}")]
    Reservations(#[from] ReservationsError),
}

/// A target cannot be made, changed or found.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetRefusal {
    #[error("there is no target `{name}`: see `ashlar target list`")]
    NotFound { name: IscsiName },
    #[error("a target `{name}` exists already: choose another name, or delete it first")]
    Exists { name: IscsiName },
    #[error("target `{name}` has no LUN {lun}: see `ashlar target show {name}`")]
    NoUnit { name: IscsiName, lun: Lun },
    #[error(
        "LUN {lun} of target `{name}` is volume `{volume}`: choose another number, or unmap that one \
         first (`ashlar target unmap {name} {lun}`)"
    )]
    LunTaken {
        name: IscsiName,
        lun: Lun,
        volume: String,
    },
    #[error(
        "volume `{volume}` is LUN {lun} of target `{name}` already, and its reservations hold there: \
         unmap it first (`ashlar target unmap {name} {lun}`)"
    )]
    Mapped {
        name: IscsiName,
        lun: Lun,
        volume: String,
    },
    #[error(
        "volume `{volume}` is mapped in {}: unmap it first (`ashlar target unmap`), or use force",
        names(.targets, *.count)
    )]
    VolumeMapped {
        volume: String,
        targets: Vec<String>,
        count: usize,
    },
    #[error("target `{name}` does not name `{initiator}`: see `ashlar target acl {name} list`")]
    NotAllowed {
        name: IscsiName,
        initiator: InitiatorPattern,
    },
    #[error("target `{name}` has no such CHAP secret: see `ashlar target show {name}`")]
    NoChap { name: IscsiName },
    #[error(
        "an initiator of target `{name}` and the target itself would have the same CHAP secret, so \
         that who knows one of them could answer for the other: choose another one"
    )]
    SecretReused { name: IscsiName },
    #[error("discovery has no such CHAP secret: see `ashlar target discovery-chap show`")]
    NoDiscoveryChap,
    #[error(
        "an initiator, and what servers show it in discovery or at a target, would have the same CHAP \
         secret, so that who knows one of them could answer for the other: choose another one"
    )]
    DiscoverySecretReused,
}

/// The reservations of a volume are not replaced.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReservationsRefusal {
    #[error(
        "the reservations of volume `{volume}` are of version {current}, not {seen}: somebody has \
         changed them meanwhile; read them again"
    )]
    Changed {
        volume: String,
        seen: u64,
        current: u64,
    },
}

fn is_text(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Checks what a target is called for people.
pub(crate) fn check_alias(alias: &str) -> Result<(), InvalidTarget> {
    if is_text(alias, 1, ALIAS_BYTES_MAX) {
        Ok(())
    } else {
        Err(InvalidTarget::Alias)
    }
}

/// Checks a name and a secret of CHAP.
pub(crate) fn check_chap(login: &ChapLogin) -> Result<(), InvalidTarget> {
    if !is_text(&login.user, 1, CHAP_NAME_BYTES_MAX) {
        return Err(InvalidTarget::ChapName);
    }
    let secret = login.secret.reveal();
    if !is_text(secret, CHAP_SECRET_BYTES_MIN, CHAP_SECRET_BYTES_MAX) {
        return Err(InvalidTarget::ChapSecret);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ashlar_proto::api::Secret;

    use super::*;

    #[test]
    fn secrets_have_twelve_bytes_at_least_and_are_no_part_of_a_refusal() {
        let check = |user: &str, secret: &str| {
            check_chap(&ChapLogin {
                user: user.to_owned(),
                secret: Secret::new(secret),
            })
        };
        assert_eq!(check("u", "twelve bytes"), Ok(()));
        assert_eq!(check(&"u".repeat(255), &"s".repeat(255)), Ok(()));
        let short = check("u", "eleven byte").unwrap_err();
        assert_eq!(short, InvalidTarget::ChapSecret);
        assert!(!short.to_string().contains("eleven"));
        let long = check("u", &"s".repeat(256));
        assert_eq!(long, Err(InvalidTarget::ChapSecret));
        assert_eq!(check("", "twelve bytes"), Err(InvalidTarget::ChapName));
        let lines = check("u", "twelve bytes\n");
        assert_eq!(lines, Err(InvalidTarget::ChapSecret));
    }
}
