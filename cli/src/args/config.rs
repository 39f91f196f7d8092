//! The arguments of `ashlar config`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

/// Whose settings they are.
#[derive(Clone, Debug, Default, Args)]
pub struct OfVolume {
    /// Of this volume; of the cluster, and so of all volumes that do not say otherwise, without it.
    #[arg(long, value_name = "NAME")]
    pub volume: Option<String>,
    /// Of the pool of these labels, in any order, as media=nvme,zone=a: of all volumes whose setting `pool` is
    /// just that, where they do not say otherwise.
    #[arg(long, value_name = "LABEL=VALUE,…", conflicts_with = "volume")]
    pub pool: Option<String>,
}

/// Settings of a volume that is made.
#[derive(Clone, Debug, Default, Args)]
pub struct VolumeRules {
    /// Keep replicas of a shard on nodes whose label of that name differs, as zone or rack.
    #[arg(long, value_name = "LABEL")]
    pub spread: Option<String>,
    /// Rather make no volume, and replace no replica, than break --spread.
    #[arg(long, requires = "spread")]
    pub spread_hard: bool,
    /// Keep it on disks with these labels, their own or those of their nodes, as media=nvme,region=eu.
    #[arg(long, value_name = "LABEL=VALUE,…")]
    pub pool: Option<String>,
    /// Keep one replica of each shard at such a place where there is room, as zone=a: that of who uses it.
    #[arg(long, value_name = "LABEL=VALUE,…")]
    pub near: Option<String>,
    /// Set a setting of it, as iops-max=5000; may be given more than once. See `ashlar config list`.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
    /// Make nothing; say where it would lie, and why not elsewhere.
    #[arg(long)]
    pub dry_run: bool,
}

impl VolumeRules {
    /// The settings that they are.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings: BTreeMap<String, String> = self.set.iter().cloned().collect();
        let pairs = [
            ("spread", self.spread.clone()),
            ("spread-rule", self.spread_hard.then(|| "hard".to_owned())),
            ("pool", self.pool.clone()),
            ("near", self.near.clone()),
        ];
        for (name, value) in pairs {
            settings.extend(value.map(|value| (name.to_owned(), value)));
        }
        settings
    }
}

/// `ashlar config set`.
#[derive(Clone, Debug, Args)]
pub struct ChangeSettingsArgs {
    /// NAME=VALUE; all of them are changed, or none.
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub values: Vec<(String, String)>,
    /// Of what.
    #[command(flatten)]
    pub of: OfVolume,
}

/// `ashlar config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// List all settings, their values, and where these come from.
    #[command(
        after_help = "Examples:\n  ashlar config list\n  ashlar config list --volume data\n  ashlar config list --pool media=nvme"
    )]
    List {
        /// Of what.
        #[command(flatten)]
        of: OfVolume,
    },
    /// Print the value of a setting.
    #[command(after_help = "\
Examples:
  ashlar config get rebuild-after
  ashlar config get iops-max --pool media=nvme")]
    Get {
        /// Its name.
        name: String,
        /// Of what.
        #[command(flatten)]
        of: OfVolume,
    },
    /// Set settings.
    #[command(after_help = "\
Examples:
  ashlar config set rebuild-after=10m
  ashlar config set iops-max=5000 bandwidth-max=200MiB --volume data
  ashlar config set iops-max=2000 --pool media=hdd,zone=a")]
    Set(ChangeSettingsArgs),
    /// Have settings be as if nobody had set them.
    #[command(after_help = "Example:\n  ashlar config unset iops-max --volume data")]
    Unset {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
        /// Of what.
        #[command(flatten)]
        of: OfVolume,
    },
    /// Say what a setting is: its value and where that comes from, its default, unit, range, and what it does
    /// when.
    #[command(after_help = "\
Examples:
  ashlar config explain iops-max
  ashlar config explain iops-max --volume data")]
    Explain {
        /// Its name; all without it.
        name: Option<String>,
        /// Of what.
        #[command(flatten)]
        of: OfVolume,
    },
    /// List the pools that have settings or volumes, and what is set for each.
    #[command(after_help = "Example:\n  ashlar config pools")]
    Pools,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!(
            "`{text}` sets nothing: give NAME=VALUE, as rebuild-after=10m"
        )),
    }
}
