//! `ashlar config`: settings of the cluster, of pools and of volumes.

use anyhow::bail;
use ashlar_proto::api::{
    ChangePoolSettings, ChangeSettings, CreateVolume, ExplainedDisk, PoolSettings, Setting,
    SettingScope, SettingSource, Settings, Verdict,
};

use crate::admin::ask;
use crate::args::{ConfigCommand, OfVolume};
use crate::output::{print_json, print_table, print_text};

/// Runs one of its commands.
pub fn run(api: &str, command: &ConfigCommand, json: bool) -> anyhow::Result<()> {
    match command {
        ConfigCommand::List { of } => list(&shown(api, of)?, json),
        ConfigCommand::Get { name, of } => {
            let settings = shown(api, of)?;
            let setting = named(&settings, name)?;
            if json {
                return print_json(setting);
            }
            print_text(&setting.value)
        }
        ConfigCommand::Set(args) => {
            let request = ChangePoolSettings {
                set: args.values.iter().cloned().collect(),
                unset: Vec::new(),
            };
            change(api, &args.of, request, json)
        }
        ConfigCommand::Unset { names, of } => {
            let request = ChangePoolSettings {
                unset: names.clone(),
                ..ChangePoolSettings::default()
            };
            change(api, of, request, json)
        }
        ConfigCommand::Explain { name, of } => explain(&shown(api, of)?, name.as_deref(), json),
        ConfigCommand::Pools => pools(api, json),
    }
}

fn shown(api: &str, of: &OfVolume) -> anyhow::Result<Settings> {
    ask(api, async |client| match &of.pool {
        Some(pool) => client.pool_settings(pool).await,
        None => client.settings(of.volume.as_deref()).await,
    })
}

fn change(api: &str, of: &OfVolume, request: ChangePoolSettings, json: bool) -> anyhow::Result<()> {
    let settings = ask(api, async |client| match &of.pool {
        Some(pool) => client.change_pool_settings(pool, &request).await,
        None => {
            let request = ChangeSettings {
                volume: of.volume.clone(),
                set: request.set.clone(),
                unset: request.unset.clone(),
            };
            client.change_settings(&request).await
        }
    })?;
    if json {
        return print_json(&settings);
    }
    let changed = request.set.keys().chain(&request.unset);
    for name in changed {
        let setting = named(&settings, name)?;
        let source = source(&settings, setting);
        print_text(&format!("{name} = {}  ({source})", setting.value))?;
    }
    Ok(())
}

fn named<'a>(settings: &'a Settings, name: &str) -> anyhow::Result<&'a Setting> {
    match settings.items.iter().find(|setting| setting.name == name) {
        Some(setting) => Ok(setting),
        None => bail!("there is no setting `{name}` here: see `ashlar config list`"),
    }
}

fn source(settings: &Settings, setting: &Setting) -> String {
    match (setting.source, &settings.pool) {
        (SettingSource::Default, _) => "default".to_owned(),
        (SettingSource::Cluster, _) => "set for the cluster".to_owned(),
        (SettingSource::Pool, Some(pool)) => format!("set for the pool {pool}"),
        (SettingSource::Pool, None) => "set for the pool".to_owned(),
        (SettingSource::Volume, _) => "set for the volume".to_owned(),
    }
}

fn pools(api: &str, json: bool) -> anyhow::Result<()> {
    let pools = ask(api, async |client| client.pools().await)?.items;
    if json {
        return print_json(&pools);
    }
    let row = |pool: &PoolSettings| {
        let set: Vec<String> = pool
            .settings
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        vec![pool.pool.clone(), pool.volumes.to_string(), set.join(" ")]
    };
    let rows = pools.iter().map(row).collect();
    print_table(&["pool", "volumes", "settings"], rows)
}

fn list(settings: &Settings, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(settings);
    }
    let row = |setting: &Setting| {
        let value = setting.value.clone();
        vec![setting.name.clone(), value, source(settings, setting)]
    };
    let rows = settings.items.iter().map(row).collect();
    print_table(&["name", "value", "from"], rows)
}

fn explain(settings: &Settings, name: Option<&str>, json: bool) -> anyhow::Result<()> {
    let wanted: Vec<&Setting> = match name {
        Some(name) => vec![named(settings, name)?],
        None => settings.items.iter().collect(),
    };
    if json {
        return print_json(&wanted);
    }
    for setting in wanted {
        let scope = match setting.scope {
            SettingScope::Cluster => "the cluster",
            SettingScope::Volume if setting.of_pools => "a volume, a pool, or all volumes",
            SettingScope::Volume => "a volume, or all of them",
        };
        let source = source(settings, setting);
        print_text(&format!(
            "{}\n  {}\n  of {scope}; {}; {}; default: {}\n  now {}  ({source})",
            setting.name,
            setting.effect,
            setting.unit,
            setting.range,
            setting.default,
            setting.value
        ))?;
    }
    Ok(())
}

/// Where a volume would lie.
pub fn explain_placement(api: &str, request: &CreateVolume, json: bool) -> anyhow::Result<()> {
    let explained = ask(api, async |client| client.explain_placement(request).await)?;
    if json {
        return print_json(&explained);
    }
    let row = |disk: &ExplainedDisk| {
        let verdict = match disk.verdict {
            Verdict::Chosen => format!("{} of {} shards", disk.replicas, explained.shards),
            Verdict::Possible => "possible".to_owned(),
            Verdict::Refused => "no".to_owned(),
        };
        let labels: Vec<String> = disk
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        vec![
            disk.node_name.clone(),
            disk.disk.to_string(),
            labels.join(","),
            verdict,
            disk.reasons.join("; "),
        ]
    };
    let rows = explained.disks.iter().map(row).collect();
    print_table(&["node", "disk", "labels", "gets", "because"], rows)?;
    match &explained.problem {
        Some(problem) => print_text(&format!("not possible: {problem}")),
        None => print_text("possible; nothing was made"),
    }
}
