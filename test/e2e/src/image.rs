//! Real data: an ext4 image of files that every machine has, and digests.

use crate::binary;
use crate::tool::Tool;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the making of an image may take.
const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;

/// An ext4 image with at least 300 MiB of real files: `/usr/share`, and `/usr/lib` too where that
/// is too small. Made once, kept beside the target directory.
///
/// # Errors
///
/// If it cannot be made.
pub fn ext4_of_real_files() -> Result<PathBuf> {
    let path = binary::work_dir().join("usr-share.ext4");
    if path.exists() {
        return Ok(path);
    }
    let mut sources = vec![Path::new("/usr/share")];
    let mut used = measure(sources[0], "-m")?;
    if used < 300 {
        sources.push(Path::new("/usr/lib"));
        used += measure(sources[1], "-m")?;
    }
    ensure!(used >= 300, "{sources:?} hold only {used} MiB of files");
    let work = tempfile::Builder::new()
        .prefix("image-")
        .tempdir_in(binary::work_dir())?;
    let tree = work.path().join("tree");
    std::fs::create_dir(&tree)?;
    for source in sources {
        // Links keep it cheap; across file systems they are copies.
        let target = tree.join(source.file_name().context("a source has a name")?);
        let link = Tool::new("cp")
            .arg("-al")
            .arg(source)
            .arg(&target)
            .limit(LIMIT)
            .run()?;
        if !link.status.success() {
            std::fs::remove_dir_all(&target).ok();
            Tool::new("cp")
                .arg("-a")
                .arg(source)
                .arg(&target)
                .limit(LIMIT)
                .check()?;
        }
    }
    let image = work.path().join("image");
    // A quarter more than the files take, for inodes and tables.
    let size = (used + used / 4 + 64).next_multiple_of(64);
    let files = measure(&tree, "--inodes")? + 1000;
    Tool::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-N", &files.to_string(), "-d"])
        .arg(&tree)
        .arg(&image)
        .arg(format!("{size}M"))
        .limit(LIMIT)
        .check()?;
    check_ext4(&image)?;
    std::fs::rename(&image, &path)?;
    Ok(path)
}

/// What `du` counts in a tree: MiB with `-m`, files with `--inodes`.
fn measure(path: &Path, unit: &str) -> Result<u64> {
    let text = Tool::new("du").args(["-sx", unit]).arg(path).check()?;
    let number = text
        .split_whitespace()
        .next()
        .context("du printed nothing")?;
    Ok(number.parse()?)
}

/// Runs `e2fsck -fn`.
///
/// # Errors
///
/// If it finds anything wrong.
pub fn check_ext4(image: &Path) -> Result<()> {
    Tool::new("e2fsck")
        .arg("-fn")
        .arg(image)
        .limit(LIMIT)
        .check()?;
    Ok(())
}

/// A file's SHA-256.
///
/// # Errors
///
/// If it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let text = Tool::new("sha256sum").arg(path).limit(LIMIT).check()?;
    Ok(text
        .split_whitespace()
        .next()
        .context("sha256sum printed nothing")?
        .to_owned())
}

/// A file's size in MiB, rounded up.
///
/// # Errors
///
/// If it is not there.
pub fn size_mib(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)?.len().div_ceil(MIB))
}
