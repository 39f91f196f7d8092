//! How the cluster calls what a CO gives a name to.
//!
//! - The same name always gives the same one, so that a repeated call finds what the first one made.
//! - Two names give two: names that the cluster cannot have, and those that look derived, become a hash.

use ashlar_proto::limits::NAME_BYTES_MAX;
use aws_lc_rs::digest::{SHA256, digest};

/// What derived names begin with.
const DERIVED_PREFIX: &str = "csi-";
/// Bytes of the hash that a derived name holds: two names collide after some 2⁶⁴.
const HASH_BYTES: usize = 16;

const _: () = assert!(DERIVED_PREFIX.len() + 2 * HASH_BYTES <= NAME_BYTES_MAX);

/// The name of a volume or snapshot that the CO calls `name`.
pub(crate) fn of(name: &str) -> String {
    if is_possible(name) && !name.starts_with(DERIVED_PREFIX) {
        name.to_owned()
    } else {
        derived("name", name)
    }
}

/// The name of the snapshot through which the volume `target` becomes a copy of another volume.
pub(crate) fn of_copy(target: &str) -> String {
    derived("copy", target)
}

fn derived(kind: &str, name: &str) -> String {
    let hash = digest(&SHA256, format!("{kind}\n{name}").as_bytes());
    let mut text = DERIVED_PREFIX.to_owned();
    for byte in hash.as_ref().iter().take(HASH_BYTES) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Whether the conductor takes the name as it is.
fn is_possible(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(first)
        && name
            .bytes()
            .all(|byte| first(byte) || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possible_names_stay() {
        for name in ["pvc-0b5b1a52-6f1c-4b4e-9d0c-3a1d8f2a7c11", "data", "0.a_b"] {
            assert_eq!(of(name), name);
        }
    }

    #[test]
    fn other_names_become_possible_and_stay_apart() {
        let long = "a".repeat(128);
        let taken = of("Data");
        let names = ["Data", "a b", "", ".x", "ü", &long, &taken, &long[1..]];
        let made: std::collections::BTreeSet<String> = names.iter().map(|name| of(name)).collect();
        assert_eq!(made.len(), names.len());
        assert!(made.iter().all(|name| is_possible(name)), "{made:?}");
        assert_eq!(of("Data"), of("Data"));
        assert_ne!(of_copy("Data"), of("Data"));
    }
}
