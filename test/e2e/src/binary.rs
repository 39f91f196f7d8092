//! Finds the `ashlar` binary under test, and the places beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary: `ASHLAR_BIN`, else the release build of this workspace, made if it is out of date.
///
/// # Panics
///
/// If there is none and it cannot be built.
pub fn ashlar() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("ASHLAR_BIN") {
            let path = PathBuf::from(path);
            assert!(path.exists(), "ASHLAR_BIN={} is not there", path.display());
            return path;
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--release", "-p", "ashlar-cli"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the ashlar binary does not build");
        target_dir().join("release/ashlar")
    })
}

/// Cargo's target directory.
///
/// # Panics
///
/// If the running test is not inside of one.
pub fn target_dir() -> PathBuf {
    if let Some(path) = std::env::var_os("CARGO_TARGET_DIR") {
        return path.into();
    }
    // target/PROFILE/deps/TEST
    let test = std::env::current_exe().expect("the running test has a path");
    let target = test
        .ancestors()
        .nth(3)
        .expect("tests lie in target/PROFILE/deps");
    target.to_path_buf()
}

/// Where tests keep their data: on the disk that holds the target directory, because direct IO and
/// a few GiB are needed, which a `/tmp` in memory may not give.
///
/// # Panics
///
/// If it cannot be made.
pub fn work_dir() -> PathBuf {
    let path = target_dir().join("e2e");
    std::fs::create_dir_all(&path).expect("the tests' directory can be made");
    path
}
