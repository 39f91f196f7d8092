//! `ashlar space`, `ashlar volume set` and `ashlar events`: what is promised and kept, and what has
//! happened.

use std::time::Duration;

use ashlar_proto::api::{DiskLevel, Event, Reserve, ReserveVolume, SetSpace, Space, Volume};

use crate::admin::{ask, word};
use crate::args::{EventsArgs, SetSpaceArgs, SetVolumeArgs, SpaceCommand};
use crate::output::{bytes, percent, print_json, print_text};

/// How long the conductor is asked to wait for the next event.
const WAIT: Duration = Duration::from_secs(30);

/// `ashlar space`.
pub fn run(api: &str, command: &SpaceCommand, json: bool) -> anyhow::Result<()> {
    let space = match command {
        SpaceCommand::Show => ask(api, async |client| client.space().await)?,
        SpaceCommand::Set(args) => {
            let request = request(args);
            ask(api, async |client| client.set_space(&request).await)?
        }
    };
    if json {
        return print_json(&space);
    }
    show(&space)
}

fn request(args: &SetSpaceArgs) -> SetSpace {
    SetSpace {
        over_commit_percent: args.over_commit,
        soft_percent: args.soft,
        hard_percent: args.hard,
    }
}

fn show(space: &Space) -> anyhow::Result<()> {
    let (used, capacity) = (space.used_bytes.get(), space.capacity_bytes.get());
    let facts = [
        ("capacity", bytes(capacity)),
        (
            "used",
            format!("{}, {}", bytes(used), percent(used, capacity)),
        ),
        ("provisioned", provisioned(space)),
        ("reserved", reserved(space)),
        ("soft", format!("{} %", space.rules.soft_percent)),
        ("hard", format!("{} %", space.rules.hard_percent)),
    ];
    for (name, value) in facts {
        print_text(&format!("{name:<12} {value}"))?;
    }
    Ok(())
}

/// What is promised, and how much may be.
pub fn provisioned(space: &Space) -> String {
    let (promised, capacity) = (space.provisioned_bytes.get(), space.capacity_bytes.get());
    let hundredths = u128::from(promised) * 100 / u128::from(capacity.max(1));
    let most = match space.rules.over_commit_percent {
        0 => "any allowed".to_owned(),
        percent => format!("{} allowed", times(u128::from(percent))),
    };
    let now = if capacity == 0 {
        "-".to_owned()
    } else {
        times(hundredths)
    };
    format!("{}, {now} the capacity, {most}", bytes(promised))
}

fn times(hundredths: u128) -> String {
    format!("{}.{:02} ×", hundredths / 100, hundredths % 100)
}

/// What is kept, and what of that is still to be taken.
pub fn reserved(space: &Space) -> String {
    let (kept, left) = (space.reserved_bytes.get(), space.unfilled_bytes.get());
    match kept {
        0 => "nothing".to_owned(),
        _ => format!("{}, {} of it not taken yet", bytes(kept), bytes(left)),
    }
}

/// What is kept for a volume.
pub fn reserve(volume: &Volume) -> String {
    match volume.reserve {
        Reserve::None => "-".to_owned(),
        Reserve::All => "all".to_owned(),
        Reserve::Bytes(kept) => bytes(kept.get()),
    }
}

/// How full a disk is, if that is worth a word.
pub fn level(level: DiskLevel) -> Option<&'static str> {
    match level {
        DiskLevel::Ample => None,
        DiskLevel::Soft => Some("above soft"),
        DiskLevel::Hard => Some("above hard"),
        DiskLevel::Full => Some("full"),
    }
}

/// `ashlar volume set`.
pub fn set_volume(api: &str, args: &SetVolumeArgs, json: bool) -> anyhow::Result<()> {
    let request = ReserveVolume {
        reserve: args.reserve,
    };
    let volume = ask(api, async |client| {
        client.reserve_volume(&args.name, &request).await
    })?;
    if json {
        return print_json(&volume);
    }
    let name = &volume.name;
    print_text(&match volume.reserve {
        Reserve::None => format!("nothing is kept for {name}"),
        Reserve::All => format!("the whole size of {name} is kept for it, on each copy's disks"),
        Reserve::Bytes(kept) => {
            format!(
                "{} are kept for {name}, on each copy's disks",
                bytes(kept.get())
            )
        }
    })
}

/// `ashlar events`.
pub fn events(api: &str, args: &EventsArgs, json: bool) -> anyhow::Result<()> {
    let mut after = args.after;
    let first = ask(api, async |client| {
        client.events(after, Duration::ZERO).await
    })?;
    if json && !args.follow {
        return print_json(&first.items);
    }
    let mut items = first.items;
    loop {
        for event in &items {
            after = after.max(event.id);
            if json {
                print_text(&serde_json::to_string(event)?)?;
            } else {
                print_text(&line(event))?;
            }
        }
        if !args.follow {
            return Ok(());
        }
        let next = ask(api, async |client| client.events(after, WAIT).await)?;
        items = next.items;
    }
}

fn line(event: &Event) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(event.time_ms);
    let at = humantime::format_rfc3339_seconds(at);
    format!("{at}  {:<18} {}", word(&event.kind), event.text)
}

#[cfg(test)]
mod tests {
    use ashlar_proto::ByteCount;
    use ashlar_proto::api::{EventKind, SpaceRules};

    use super::*;

    #[test]
    fn what_is_promised_is_told_by_the_capacity() {
        let space = Space {
            capacity_bytes: ByteCount::new(100 << 30),
            provisioned_bytes: ByteCount::new(250 << 30),
            ..Space::default()
        };
        let told = "250.0 GiB, 2.50 × the capacity, 20.00 × allowed";
        assert_eq!(provisioned(&space), told);
        let rules = SpaceRules {
            over_commit_percent: 0,
            ..SpaceRules::default()
        };
        let any = provisioned(&Space { rules, ..space });
        assert!(any.ends_with("any allowed"), "{any}");
        assert!(provisioned(&Space::default()).contains("- the capacity"));
        assert_eq!(reserved(&space), "nothing");
    }

    #[test]
    fn an_event_is_a_line() {
        let event = Event {
            id: 7,
            time_ms: 1_700_000_000_000,
            kind: EventKind::DiskFull,
            subject: "disk 1".to_owned(),
            text: "it is full".to_owned(),
        };
        assert_eq!(
            line(&event),
            "2023-11-14T22:13:20Z  disk-full          it is full"
        );
    }
}
