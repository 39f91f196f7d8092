//! `ashlar volume label`, `ashlar disk label`: labels, as people write them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ashlar_proto::DiskId;
use ashlar_proto::api::{LabelDisk, LabelVolume};

use crate::admin::ask;
use crate::args::LabelArgs;
use crate::output::{print_json, print_text};

/// Changes labels of a volume.
pub fn run(api: &str, args: &LabelArgs, json: bool) -> Result<()> {
    let request = changes(&args.labels)?;
    let volume = ask(api, async |client| {
        client.label_volume(&args.name, &request).await
    })?;
    if json {
        return print_json(&volume);
    }
    print_text(&format!("{}: {}", volume.name, told(&volume.labels)))
}

/// Changes labels of a disk.
pub fn disk(api: &str, disk: DiskId, texts: &[String], json: bool) -> Result<()> {
    let LabelVolume { set, remove } = changes(texts)?;
    let request = LabelDisk { set, remove };
    let disk = ask(api, async |client| client.label_disk(disk, &request).await)?;
    if json {
        return print_json(&disk);
    }
    print_text(&format!("disk {}: {}", disk.report.id, told(&disk.labels)))
}

/// `NAME=VALUE` sets a label, `NAME-` takes it away.
fn changes(texts: &[String]) -> Result<LabelVolume> {
    let mut request = LabelVolume::default();
    for text in texts {
        if let Some((name, value)) = text.split_once('=') {
            request.set.insert(name.to_owned(), value.to_owned());
        } else if let Some(name) = text.strip_suffix('-') {
            request.remove.push(name.to_owned());
        } else {
            bail!("`{text}` is no change of a label: give NAME=VALUE, or NAME- to take it away");
        }
    }
    Ok(request)
}

/// Labels of `--label`, as NAME=VALUE.
pub fn parse(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Labels for people.
pub fn told(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "-".to_owned();
    }
    let each = labels.iter().map(|(name, value)| format!("{name}={value}"));
    each.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_taken_away() {
        let texts = ["tier=gold", "a=b=c", "old-"].map(str::to_owned);
        let request = changes(&texts).unwrap();
        assert_eq!(request.set["tier"], "gold");
        assert_eq!(request.set["a"], "b=c");
        assert_eq!(request.remove, ["old"]);
        assert!(changes(&["tier".to_owned()]).is_err());
        assert_eq!(told(&request.set), "a=b=c,tier=gold");
    }
}
