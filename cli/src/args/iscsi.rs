//! The arguments of `ashlar iscsi`, and of iSCSI in `ashlar up`.

use std::str::FromStr;

use ashlar_proto::Address;
use clap::Args;

use super::{ProcessArgs, ReactorArgs, ScrubArgs};

/// Where iSCSI is served unless told otherwise: loopback, at the port that IANA has given it.
pub const ISCSI_LISTEN: &str = "127.0.0.1:3260";

/// `ashlar iscsi`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ashlar target create iqn.2026-11.com.example:db --allow iqn.1994-05.com.redhat:host-a
  ashlar target map iqn.2026-11.com.example:db data
  ashlar iscsi --conductor http://10.0.0.1:7100 --listen 10.0.0.3:3260
  iscsiadm -m discovery -t st -p 10.0.0.3

Several servers may serve the same targets, for hosts with more than one path: each says its own address,
and hosts find all of them by asking one (see docs/operations.md, Multipath).
  ashlar iscsi --conductor http://10.0.0.1:7100 --listen 10.0.0.4:3260

With --all-volumes, each volume that no target maps is one of its own, iqn.2026-11.io.ashlar:VOLUME, LUN 1,
open to everybody; so is each snapshot, iqn.2026-11.io.ashlar:VOLUME:SNAPSHOT, read-only.")]
pub struct IscsiArgs {
    /// The conductor that knows volumes and targets.
    #[arg(long, value_name = "URL", env = "ASHLAR_API")]
    pub conductor: String,

    /// Where to listen; may be given more than once (IP:PORT).
    #[arg(long, default_value = ISCSI_LISTEN, value_name = "ADDR")]
    pub listen: Vec<Address>,

    /// The server's name among the iSCSI servers of the cluster, by which hosts know its port: no other has
    /// it [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// An address that initiators are told to connect to, where that is another than the one that they
    /// came to, or this server listens at all addresses; may be given more than once.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_portal)]
    pub portal: Vec<String>,

    /// Offer volumes that no target maps, too, to everybody.
    #[arg(long)]
    pub all_volumes: bool,

    /// Take volumes over from owners that still hold them, unless these are iSCSI servers that are heard.
    #[arg(long)]
    pub force_attach: bool,

    /// How attached volumes are scrubbed.
    #[command(flatten)]
    pub scrub: ScrubArgs,

    /// What every role has.
    #[command(flatten)]
    pub process: ProcessArgs,

    /// How the reactor thread runs.
    #[command(flatten)]
    pub reactor: ReactorArgs,
}

/// Where iSCSI is served in `ashlar up`, or that it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IscsiListen {
    /// Not at all.
    None,
    /// There.
    At(Address),
}

impl FromStr for IscsiListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let address = text.parse().map(Self::At);
        address.map_err(|_| format!("`{text}` is no address: give IP:PORT, or none"))
    }
}

/// What `--iscsi` of `ashlar up` comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IscsiChoice {
    /// Nothing was said: where it usually is, if nobody else is there.
    Usual,
    /// There, or not at all.
    Given(Vec<Address>),
}

impl IscsiChoice {
    /// From all that was given; `none` takes back what stands before it.
    pub fn of(given: &[IscsiListen]) -> Self {
        if given.is_empty() {
            return Self::Usual;
        }
        let mut addresses = Vec::new();
        for listen in given {
            match listen {
                IscsiListen::None => addresses.clear(),
                IscsiListen::At(address) => addresses.push(address.clone()),
            }
        }
        Self::Given(addresses)
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn parse_portal(text: &str) -> Result<String, String> {
    let wrong =
        || format!("`{text}` is no portal: give HOST:PORT, as 10.0.0.3:3260 or [fd00::3]:3260");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
        }
    };
    if is_host && is_port {
        Ok(text.to_owned())
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_switches_iscsi_off_and_nothing_is_the_usual() {
        let listen = |text: &str| text.parse::<IscsiListen>().unwrap();
        let address: Address = "127.0.0.1:3261".parse().unwrap();
        assert_eq!(IscsiChoice::of(&[]), IscsiChoice::Usual);
        let none = IscsiChoice::Given(Vec::new());
        assert_eq!(IscsiChoice::of(&[listen("none")]), none);
        let given = [listen("none"), listen("127.0.0.1:3261")];
        assert_eq!(IscsiChoice::of(&given), IscsiChoice::Given(vec![address]));
        assert!("nothing".parse::<IscsiListen>().is_err());
        assert!(ISCSI_LISTEN.parse::<Address>().is_ok());
    }

    #[test]
    fn portals_are_hosts_with_ports() {
        for text in ["10.0.0.3:3260", "san-1.example:3260", "[fd00::3]:3260"] {
            assert_eq!(parse_portal(text), Ok(text.to_owned()));
        }
        for text in [
            "",
            "host",
            "host:",
            ":3260",
            "host:0",
            "host:70000",
            "fd00::3:3260",
            "a b:1",
            "host:1,2",
            "[host]:1",
        ] {
            assert!(parse_portal(text).is_err(), "{text:?}");
        }
    }
}
