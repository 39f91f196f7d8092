//! The arguments by which a store finds disks.

use clap::Args;
use glob::Pattern;

/// Which disks a store may take by itself.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Disks that are found")]
pub struct DiskFilterArgs {
    /// Serve whatever Ashlar disks this pattern names, as '/dev/disk/by-id/nvme-EXAMPLE_*'; may be given
    /// more than once. Without one no disk but those of --disk is ever opened. Disks that hold something
    /// else, or are in use, are left alone and told of in the log.
    #[arg(long, value_name = "GLOB", value_parser = parse_pattern)]
    pub disk_filter: Vec<String>,

    /// Format disks of --disk-filter that are empty: blkid(8) finds nothing on them, their first and last
    /// 4 MiB hold zeroes, nothing uses them.
    #[arg(long, requires = "disk_filter")]
    pub disk_format_empty: bool,

    /// Lanes of disks that are formatted so.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub disk_format_lanes: u16,
}

/// A pattern that names paths from the root on, and below it more than everything.
fn parse_pattern(text: &str) -> Result<String, String> {
    Pattern::new(text).map_err(|error| format!("`{text}` is no pattern: {error}"))?;
    let fixed = text.split(['*', '?', '[']).next().unwrap_or_default();
    let names_a_directory = fixed.rfind('/').is_some_and(|end| end > 0);
    if !text.starts_with('/') || !names_a_directory {
        return Err(format!(
            "`{text}` may be any file: begin with a directory, as /dev/disk/by-id/nvme-*"
        ));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(format!("`{text}` leads elsewhere: give it without `..`"));
    }
    if text.contains("**") {
        return Err(format!(
            "`{text}` goes through directories: name one, as /dev/disk/by-id/nvme-*"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_a_directory() {
        for text in [
            "/dev/disk/by-id/nvme-*",
            "/dev/sd[b-d]",
            "/dev/nvme?n1",
            "/dev/vdb",
        ] {
            assert_eq!(parse_pattern(text), Ok(text.to_owned()));
        }
        for text in [
            "",
            "*",
            "/*",
            "/d*/sda",
            "dev/sd*",
            "/**",
            "/dev/**/sda",
            "/dev/../etc/*",
            "/dev/sd[",
        ] {
            assert!(parse_pattern(text).is_err(), "{text}");
        }
    }
}
