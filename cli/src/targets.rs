//! `ashlar target`, and `ashlar volume reservations`.

mod paths;

use std::collections::BTreeMap;

use ashlar_proto::IscsiName;
use ashlar_proto::api::{
    AllowInitiator, ChapUser, ClearChap, CreateTarget, DiscoveryChap, MapUnit, Registration,
    RemoveInitiator, SetChap, Target, VolumeReservations,
};

use crate::admin::ask;
use crate::args::{
    AclCommand, ChapCommand, ClearChapArgs, DiscoveryChapCommand, SetChapArgs, TargetCommand,
};
use crate::chap_secret;
use crate::output::{print_json, print_table, print_text};

/// Runs one of its commands.
pub fn run(api: &str, command: TargetCommand, json: bool) -> anyhow::Result<()> {
    match command {
        TargetCommand::Create { name, alias, allow } => {
            let request = CreateTarget {
                name,
                alias,
                initiators: allow,
            };
            let target = ask(api, async |client| client.create_target(&request).await)?;
            tell(&target, json, created)
        }
        TargetCommand::List => list(api, json),
        TargetCommand::Show { name } => {
            let target = ask(api, async |client| client.target(&name).await)?;
            if json {
                return print_json(&target);
            }
            let paths = paths::Paths::ask(api)?;
            print_text(&shown(&target, &paths))
        }
        TargetCommand::Servers => paths::servers(api, json),
        TargetCommand::Forget { server } => {
            ask(api, async |client| client.forget_server(&server).await)?;
            if json {
                return print_json(&BTreeMap::from([("forgotten", &server)]));
            }
            print_text(&format!("forgot {server}"))
        }
        TargetCommand::Delete { name } => {
            ask(api, async |client| client.delete_target(&name).await)?;
            if json {
                return print_json(&BTreeMap::from([("deleted", &name)]));
            }
            print_text(&format!("deleted {name}"))
        }
        TargetCommand::Map {
            target,
            volume,
            lun,
            read_only,
        } => {
            let request = MapUnit {
                volume,
                lun,
                read_only,
            };
            let mapped = ask(api, async |client| client.map_unit(&target, &request).await)?;
            tell(&mapped, json, |target| told_mapped(target, &request.volume))
        }
        TargetCommand::Unmap { target, lun } => {
            let changed = ask(api, async |client| client.unmap_unit(&target, lun).await)?;
            tell(&changed, json, |target| {
                format!("{} offers no LUN {lun} any more", target.name)
            })
        }
        TargetCommand::Acl { target, command } => acl(api, &target, command, json),
        TargetCommand::Chap { target, command } => match command {
            ChapCommand::Set(args) => set_chap(api, &target, args, json),
            ChapCommand::Clear(args) => clear_chap(api, &target, args, json),
        },
        TargetCommand::DiscoveryChap { command } => discovery_chap(api, command, json),
    }
}

/// `ashlar volume reservations`.
pub fn reservations(api: &str, volume: &str, json: bool) -> anyhow::Result<()> {
    let held = ask(api, async |client| client.reservations(volume).await)?;
    if json {
        return print_json(&held);
    }
    print_text(&told_reservation(&held))?;
    let registrations = &held.reservations.registrations;
    if registrations.is_empty() {
        return Ok(());
    }
    print_text("")?;
    let holder = held.reservations.reservation.map(|r| r.holder);
    let rows = registrations.iter().enumerate().map(|(at, registration)| {
        let is_holder = holder.is_some_and(|holder| holder.is_none_or(|h| usize::from(h) == at));
        registration_row(registration, is_holder)
    });
    print_table(&["initiator", "through", "key", "holds it"], rows.collect())
}

fn tell(target: &Target, json: bool, text: impl Fn(&Target) -> String) -> anyhow::Result<()> {
    if json {
        print_json(target)
    } else {
        print_text(&text(target))
    }
}

fn list(api: &str, json: bool) -> anyhow::Result<()> {
    let targets = ask(api, async |client| client.targets().await)?.items;
    if json {
        return print_json(&targets);
    }
    let row = |target: &Target| {
        let units: Vec<String> = target.units.iter().map(unit_word).collect();
        vec![
            target.name.to_string(),
            words(&units),
            words(&target.initiators),
            if target.chap.is_empty() { "no" } else { "yes" }.to_owned(),
            target.alias.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let header = ["name", "units", "initiators", "chap", "alias"];
    print_table(&header, targets.iter().map(row).collect())
}

fn acl(api: &str, target: &IscsiName, command: AclCommand, json: bool) -> anyhow::Result<()> {
    let changed = match command {
        AclCommand::List => ask(api, async |client| client.target(target).await)?,
        AclCommand::Allow { initiator } => {
            let request = AllowInitiator { initiator };
            ask(api, async |client| {
                client.allow_initiator(target, &request).await
            })?
        }
        AclCommand::Remove { initiator } => {
            let request = RemoveInitiator { initiator };
            ask(api, async |client| {
                client.remove_initiator(target, &request).await
            })?
        }
    };
    if json {
        return print_json(&changed.initiators);
    }
    print_text(&allowed(&changed))
}

fn discovery_chap(api: &str, command: DiscoveryChapCommand, json: bool) -> anyhow::Result<()> {
    let shown = match command {
        DiscoveryChapCommand::Show => ask(api, async |client| client.discovery_chap().await)?,
        DiscoveryChapCommand::Set(args) => {
            let request = set_request(args)?;
            ask(api, async |client| {
                client.set_discovery_chap(&request).await
            })?
        }
        DiscoveryChapCommand::Clear(args) => {
            let request = clear_request(args);
            ask(api, async |client| {
                client.clear_discovery_chap(&request).await
            })?
        }
    };
    if json {
        return print_json(&shown);
    }
    print_text(&discovery_text(&shown))
}

/// Who has to show what to be told of targets.
fn discovery_text(discovery: &DiscoveryChap) -> String {
    let mut lines: Vec<String> = discovery.chap.iter().map(chap_line).collect();
    if lines.is_empty() {
        lines.push(
            "initiators are told of the targets that they may use without a secret".to_owned(),
        );
    }
    if let Some(user) = &discovery.mutual {
        lines.push(format!("servers show that they are {user}"));
    }
    lines.join("\n")
}

fn set_request(args: SetChapArgs) -> anyhow::Result<SetChap> {
    Ok(SetChap {
        user: args.user,
        secret: chap_secret::read(args.secret_file.as_deref())?,
        initiator: args.initiator,
        mutual: args.mutual,
    })
}

fn clear_request(args: ClearChapArgs) -> ClearChap {
    match args.user {
        Some(user) => ClearChap::User {
            user,
            initiator: args.initiator,
        },
        None if args.mutual => ClearChap::Mutual,
        None => ClearChap::All,
    }
}

fn set_chap(api: &str, target: &IscsiName, args: SetChapArgs, json: bool) -> anyhow::Result<()> {
    let request = set_request(args)?;
    let changed = ask(api, async |client| client.set_chap(target, &request).await)?;
    tell(&changed, json, chap)
}

fn clear_chap(
    api: &str,
    target: &IscsiName,
    args: ClearChapArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = clear_request(args);
    let changed = ask(api, async |client| {
        client.clear_chap(target, &request).await
    })?;
    tell(&changed, json, chap)
}

fn created(target: &Target) -> String {
    let name = &target.name;
    let mut text = format!("created {name}; offer a volume: `ashlar target map {name} VOLUME`");
    if target.initiators.is_empty() {
        text += &format!(
            "\nnobody may log in yet: `ashlar target acl {name} allow INITIATOR`, or '*' for everybody"
        );
    }
    text
}

fn told_mapped(target: &Target, volume: &str) -> String {
    let unit = target.units.iter().find(|unit| unit.volume_name == volume);
    let lun = unit.map_or_else(|| "?".to_owned(), |unit| unit.lun.to_string());
    format!("{volume} is LUN {lun} of {}", target.name)
}

fn allowed(target: &Target) -> String {
    if target.initiators.is_empty() {
        return format!("nobody may log in to {}", target.name);
    }
    let names: Vec<String> = target.initiators.iter().map(ToString::to_string).collect();
    names.join("\n")
}

/// Who has to show what.
fn chap(target: &Target) -> String {
    let mut lines: Vec<String> = target.chap.iter().map(chap_line).collect();
    if lines.is_empty() {
        lines.push("initiators that are allowed log in without a secret".to_owned());
    }
    if let Some(user) = &target.mutual {
        lines.push(format!("the target shows that it is {user}"));
    }
    lines.join("\n")
}

fn chap_line(user: &ChapUser) -> String {
    match &user.initiator {
        Some(initiator) => format!("{initiator} logs in as {}", user.user),
        None => format!("initiators log in as {}", user.user),
    }
}

fn shown(target: &Target, paths: &paths::Paths) -> String {
    let alias = target.alias.clone().unwrap_or_else(|| "-".to_owned());
    let units = target.units.iter().map(|unit| paths.unit_words(unit));
    let facts = [
        ("name", target.name.to_string()),
        ("alias", alias),
        ("units", lines(units.collect())),
        ("initiators", lines(vec![allowed(target)])),
        ("chap", lines(vec![chap(target)])),
        ("servers", lines(paths.server_words())),
    ];
    let line = |(name, value): (&str, String)| format!("{name:<12} {value}");
    facts.map(line).join("\n")
}

/// Lines of a value that stands beside a name of 12 characters.
fn lines(list: Vec<String>) -> String {
    if list.is_empty() {
        return "-".to_owned();
    }
    list.join("\n").replace('\n', "\n             ")
}

fn unit_word(unit: &ashlar_proto::api::TargetUnit) -> String {
    let mark = if unit.read_only { " (read-only)" } else { "" };
    format!("{}: {}{mark}", unit.lun, unit.volume_name)
}

/// A few words in a cell of a table.
fn words<T: ToString>(list: &[T]) -> String {
    const SHOWN_MAX: usize = 3;
    let some: Vec<String> = list
        .iter()
        .take(SHOWN_MAX)
        .map(ToString::to_string)
        .collect();
    match list.len().saturating_sub(SHOWN_MAX) {
        _ if list.is_empty() => "-".to_owned(),
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

fn told_reservation(held: &VolumeReservations) -> String {
    let reservations = &held.reservations;
    let text = match &reservations.reservation {
        None => "not reserved".to_owned(),
        Some(reservation) => {
            let kind = serde_json::to_value(reservation.kind).unwrap_or_default();
            let kind = kind.as_str().unwrap_or_default().to_owned();
            format!("reserved: {kind}")
        }
    };
    let (count, generation) = (reservations.registrations.len(), reservations.generation);
    format!("{text}; {count} registered, generation {generation}")
}

fn registration_row(registration: &Registration, is_holder: bool) -> Vec<String> {
    let through = registration.through.as_ref();
    let through = through.map(|port| format!("{},t,{:#06x}", port.target, port.portal_group));
    vec![
        registration.initiator.to_string(),
        through.unwrap_or_else(|| "all ports".to_owned()),
        format!("0x{}", registration.key),
        if is_holder { "yes" } else { "-" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use ashlar_proto::api::TargetUnit;
    use ashlar_proto::{Lun, VolumeId};

    use super::*;

    fn target() -> Target {
        Target {
            name: "iqn.2026-11.com.example:db".parse().unwrap(),
            alias: None,
            units: vec![TargetUnit {
                lun: Lun::FIRST,
                volume: VolumeId::new(7),
                volume_name: "data".to_owned(),
                read_only: true,
            }],
            initiators: Vec::new(),
            chap: Vec::new(),
            mutual: None,
        }
    }

    #[test]
    fn who_makes_a_target_for_nobody_is_told_so() {
        let mut target = target();
        assert!(created(&target).contains("nobody may log in yet"));
        target.initiators = vec!["*".parse().unwrap()];
        assert!(!created(&target).contains("nobody"));
    }

    #[test]
    fn a_target_is_shown_with_its_units_and_who_may_use_them() {
        let mut target = target();
        target.initiators = vec!["*".parse().unwrap(), "eui.*".parse().unwrap()];
        target.chap = vec![ChapUser {
            user: "u".to_owned(),
            initiator: Some("*".parse().unwrap()),
        }];
        target.mutual = Some("t".to_owned());
        let text = "\
name         iqn.2026-11.com.example:db
alias        -
units        1: data (read-only)
initiators   *
             eui.*
chap         * logs in as u
             the target shows that it is t
servers      -";
        assert_eq!(shown(&target, &paths::Paths::default()), text);
        assert_eq!(
            told_mapped(&target, "data"),
            "data is LUN 1 of iqn.2026-11.com.example:db"
        );
    }

    #[test]
    fn who_is_told_of_targets_is_said() {
        let mut discovery = DiscoveryChap::default();
        assert!(discovery_text(&discovery).contains("without a secret"));
        discovery.chap = vec![ChapUser {
            user: "u".to_owned(),
            initiator: None,
        }];
        discovery.mutual = Some("s".to_owned());
        let text = "initiators log in as u\nservers show that they are s";
        assert_eq!(discovery_text(&discovery), text);
    }

    #[test]
    fn long_lists_are_cut_in_tables() {
        assert_eq!(words::<u8>(&[]), "-");
        assert_eq!(words(&[1, 2, 3]), "1, 2, 3");
        assert_eq!(words(&[1, 2, 3, 4, 5]), "1, 2, 3 and 2 more");
    }
}
