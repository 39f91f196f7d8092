//! The arguments of `ashlar space` and `ashlar events`, and of reservations.

use ashlar_proto::ByteCount;
use ashlar_proto::api::Reserve;
use clap::{Args, Subcommand};

use super::parse_size;

/// `ashlar space`.
#[derive(Debug, Subcommand)]
pub enum SpaceCommand {
    /// Show the rules of space, and how much is promised, kept and used.
    #[command(after_help = "Example:\n  ashlar space show --json | jq .provisioned_bytes")]
    Show,
    /// Change the rules of space; what is left out stays as it is.
    #[command(after_help = "\
Examples:
  ashlar space set --over-commit 3
  ashlar space set --over-commit unlimited
  ashlar space set --soft 75 --hard 85")]
    Set(SetSpaceArgs),
}

/// `ashlar space set`.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct SetSpaceArgs {
    /// How many times the bytes that there are may be promised to volumes: 1 or more, with up to two
    /// decimals, or unlimited [default of a new cluster: 20].
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    pub over_commit: Option<u32>,
    /// Percent of a disk above which replicas of new volumes are placed elsewhere where others have
    /// room [default of a new cluster: 80].
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub soft: Option<u8>,
    /// Percent of a disk above which it gets no replicas and gives some away [default of a new
    /// cluster: 90].
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub hard: Option<u8>,
}

/// `ashlar volume set`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar volume set data --reserve 10GiB
  ashlar volume set data --reserve all
  ashlar volume set data --reserve none")]
pub struct SetVolumeArgs {
    /// Its name.
    pub name: String,
    /// Bytes of each copy that are kept for it, whatever others write: a size, all or none.
    #[arg(long, value_name = "SIZE|all|none", value_parser = parse_reserve)]
    pub reserve: Reserve,
}

/// `ashlar events`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ashlar events
  ashlar events --follow
  ashlar events --json | jq '.[] | select(.kind == \"disk-full\")'

The conductor keeps the last thousand events, and none from before it was started.")]
pub struct EventsArgs {
    /// Go on and print what happens, until interrupted.
    #[arg(long)]
    pub follow: bool,
    /// Only those after the event of this number.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub after: u64,
}

/// A size, or a word.
pub(super) fn parse_reserve(text: &str) -> Result<Reserve, String> {
    match text {
        "all" => Ok(Reserve::All),
        "none" => Ok(Reserve::None),
        size => match parse_size(size) {
            Ok(0) => Ok(Reserve::None),
            Ok(bytes) => Ok(Reserve::Bytes(ByteCount::new(bytes))),
            Err(_) => Err(format!(
                "`{text}` is no size: give one as 10GiB, or all or none"
            )),
        },
    }
}

/// A ratio in percent; 0 where there is none.
fn parse_ratio(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no ratio: give 1 or more, as 3 or 1.5, or unlimited");
    if text == "unlimited" {
        return Ok(0);
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if part.len() > 2 || !is_number(part) || !is_number(whole) || text.ends_with('.') {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let part: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
    let percent = whole
        .checked_mul(100)
        .and_then(|whole| whole.checked_add(part));
    percent.filter(|percent| *percent >= 100).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_have_up_to_two_decimals() {
        let read = |text| parse_ratio(text).ok();
        assert_eq!(
            ["1", "20", "1.5", "1.25"].map(read),
            [100, 2000, 150, 125].map(Some)
        );
        assert_eq!(read("unlimited"), Some(0));
        for wrong in ["0", "0.99", "1.", ".5", "1.255", "-2", "x", "", "99999999"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn reservations_are_sizes_or_words() {
        let bytes = |count| Ok(Reserve::Bytes(ByteCount::new(count)));
        assert_eq!(parse_reserve("4KiB"), bytes(4096));
        assert_eq!(parse_reserve("all"), Ok(Reserve::All));
        assert_eq!(parse_reserve("0"), Ok(Reserve::None));
        assert!(parse_reserve("some").is_err());
    }
}
