//! Names of volumes: plain, or of a project as `project/volume`.
//!
//! Invariant: a volume of the project [`DEFAULT_PROJECT`] has a plain name, so each volume has one name
//! only, and names that were given before there were projects stay as they are.

use crate::limits::NAME_BYTES_MAX;

/// The project of the volumes that have plain names.
pub const DEFAULT_PROJECT: &str = "default";

/// Longest name of a volume with its project, in bytes.
pub const VOLUME_NAME_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 1;

/// Whether a text can be the name of a project, or of a volume or snapshot without what it is of: 1 to
/// 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let is_first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_inner = |b: u8| is_first(b) || b".-_".contains(&b);
    name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(is_first)
        && name.bytes().all(is_inner)
}

/// Whether a text can be the name of a volume, once it is [`canonical`].
#[must_use]
pub fn is_volume_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((project, volume)) => {
            project != DEFAULT_PROJECT && is_plain_name(project) && is_plain_name(volume)
        }
        None => is_plain_name(name),
    }
}

/// The one name of a volume that may also be called `default/volume`.
#[must_use]
pub fn canonical(name: &str) -> &str {
    name.strip_prefix(DEFAULT_PROJECT)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(name)
}

/// The project of the volume of that name.
#[must_use]
pub fn project_of(name: &str) -> &str {
    canonical(name)
        .split_once('/')
        .map_or(DEFAULT_PROJECT, |(project, _)| project)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_project_at_most() {
        let longest = "x".repeat(NAME_BYTES_MAX);
        for name in [
            "a",
            "p/a",
            "0/0",
            "default",
            &format!("{longest}/{longest}"),
        ] {
            assert!(is_volume_name(name), "{name}");
            assert!(name.len() <= VOLUME_NAME_BYTES_MAX);
        }
        for name in [
            "",
            "/",
            "/a",
            "p/",
            "p/a/b",
            "P/a",
            "p/A",
            "p//a",
            "../a",
            "p/..",
            "default/a",
            "p@a/b",
        ] {
            assert!(!is_volume_name(name), "{name}");
        }
        assert!(!is_plain_name("p/a") && !is_plain_name(&format!("{longest}x")));
    }

    #[test]
    fn volumes_of_the_default_project_are_called_plainly() {
        assert_eq!(canonical("default/a"), "a");
        assert_eq!(canonical("defaults/a"), "defaults/a");
        assert_eq!(canonical("default"), "default");
        assert_eq!(project_of("default/a"), DEFAULT_PROJECT);
        assert_eq!(project_of("a"), DEFAULT_PROJECT);
        assert_eq!(project_of("p/a"), "p");
        // Not to be taken for a plain name in its project.
        assert_eq!(project_of("default/p/a"), "p");
        assert!(!is_volume_name("default/default/a") && is_volume_name(canonical("default/p/a")));
    }
}
