//! Real data: an ext4 image of files that every machine has, and digests.

use crate::binary;
use crate::tool::Tool;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the making of an image may take.
const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;

/// At least so many KiB are of real files.
const FILES_KIB: u64 = 300 << 10;

/// An ext4 image with 300 MiB of real files, or a little more: of `/usr/share`, and of `/usr/lib` too where that
/// is too small. Made once, kept beside the target directory.
///
/// # Errors
///
/// If it cannot be made.
pub fn ext4_of_real_files() -> Result<PathBuf> {
    let path = binary::work_dir().join("real-files.ext4");
    if path.exists() {
        return Ok(path);
    }
    let mut sources = Vec::new();
    let mut used = 0;
    for directory in ["/usr/share", "/usr/lib"] {
        for (entry, kib) in entries(Path::new(directory))? {
            if used >= FILES_KIB {
                break;
            }
            used += kib;
            sources.push(entry);
        }
    }
    ensure!(used >= FILES_KIB, "there are only {used} KiB of files");
    let work = tempfile::Builder::new()
        .prefix("image-")
        .tempdir_in(binary::work_dir())?;
    let tree = work.path().join("tree");
    for source in sources {
        let target = tree.join(source.strip_prefix("/usr")?);
        let parent = target.parent().context("a source has a parent")?;
        std::fs::create_dir_all(parent)?;
        // Links keep it cheap; across file systems they are copies.
        let link = Tool::new("cp")
            .arg("-al")
            .arg(&source)
            .arg(&target)
            .limit(LIMIT)
            .run()?;
        if !link.status.success() {
            std::fs::remove_dir_all(&target).ok();
            Tool::new("cp")
                .arg("-a")
                .arg(&source)
                .arg(&target)
                .limit(LIMIT)
                .check()?;
        }
    }
    let image = work.path().join("image");
    // A quarter more than the files take, for inodes and tables.
    let size = (used / 1024 * 5 / 4 + 64).next_multiple_of(64);
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

/// What a directory holds, by name, each with the KiB that it takes.
fn entries(directory: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        // A link would lead out of the tree.
        if path.is_dir() && !path.is_symlink() {
            let kib = measure(&path, "-k")?;
            entries.push((path, kib));
        }
    }
    entries.sort();
    Ok(entries)
}

/// What `du` counts in a tree: KiB with `-k`, files with `--inodes`.
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
