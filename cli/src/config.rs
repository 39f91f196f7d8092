//! `ashlar config`: settings of the cluster and of volumes.

use anyhow::bail;
use ashlar_proto::api::{
    ChangeSettings, CreateVolume, ExplainedDisk, Setting, SettingScope, SettingSource, Settings,
    Verdict,
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
            let request = ChangeSettings {
                volume: args.of.volume.clone(),
                set: args.values.iter().cloned().collect(),
                unset: Vec::new(),
            };
            change(api, &request, json)
        }
        ConfigCommand::Unset { names, of } => {
            let request = ChangeSettings {
                volume: of.volume.clone(),
                unset: names.clone(),
                ..ChangeSettings::default()
            };
            change(api, &request, json)
        }
        ConfigCommand::Explain { name } => {
            let settings = shown(api, &OfVolume::default())?;
            explain(&settings, name.as_deref(), json)
        }
    }
}

fn shown(api: &str, of: &OfVolume) -> anyhow::Result<Settings> {
    let volume = of.volume.clone();
    ask(api, async |client| client.settings(volume.as_deref()).await)
}

fn change(api: &str, request: &ChangeSettings, json: bool) -> anyhow::Result<()> {
    let settings = ask(api, async |client| client.change_settings(request).await)?;
    if json {
        return print_json(&settings);
    }
    let changed = request.set.keys().chain(&request.unset);
    for name in changed {
        let setting = named(&settings, name)?;
        print_text(&format!(
            "{name} = {}  ({})",
            setting.value,
            source(setting)
        ))?;
    }
    Ok(())
}

fn named<'a>(settings: &'a Settings, name: &str) -> anyhow::Result<&'a Setting> {
    match settings.items.iter().find(|setting| setting.name == name) {
        Some(setting) => Ok(setting),
        None => bail!("there is no setting `{name}` here: see `ashlar config list`"),
    }
}

fn source(setting: &Setting) -> &'static str {
    match setting.source {
        SettingSource::Default => "default",
        SettingSource::Cluster => "set for the cluster",
        SettingSource::Volume => "set for the volume",
    }
}

fn list(settings: &Settings, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(settings);
    }
    let row = |setting: &Setting| {
        let value = setting.value.clone();
        vec![setting.name.clone(), value, source(setting).to_owned()]
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
            SettingScope::Volume => "a volume, or all of them",
        };
        print_text(&format!(
            "{}\n  {}\n  of {scope}; {}; {}; default: {}",
            setting.name, setting.effect, setting.unit, setting.range, setting.default
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
