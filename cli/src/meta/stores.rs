//! `ashlar meta check` of a running cluster: its metadata, with what its stores hold.

use anyhow::bail;
use ashlar_conductor::upkeep::check::Finding;
use ashlar_proto::api::{CheckMetadata, FindingKind, MetadataChecked, MetadataFinding};
use serde_json::json;

use crate::admin::ask;
use crate::args::CheckArgs;
use crate::output::{print_json, print_text};

/// Compares, and repairs if that is asked for; `left` is what is wrong with the rows by themselves.
pub(super) fn check(
    api: &str,
    args: &CheckArgs,
    rows: usize,
    left: &[Finding],
    json: bool,
) -> anyhow::Result<()> {
    let request = CheckMetadata {
        repair: args.repair,
        accept: args.accept.clone(),
        all_disks: args.all_disks,
        gone: args.gone.clone(),
        give_up: args.give_up,
        wait_ms: Some(u64::try_from(args.wait.as_millis()).unwrap_or(u64::MAX)),
    };
    let checked = ask(api, async |client| client.check_metadata(&request).await)?;
    // What a repair has put right with stores' help may be what is wrong with the rows.
    let of_rows: Vec<String> = match checked.mended.is_empty() {
        true => left.iter().map(ToString::to_string).collect(),
        false => Vec::new(),
    };
    let is_wrong = |finding: &&MetadataFinding| {
        matches!(
            finding.kind,
            FindingKind::Undecided | FindingKind::Repairable
        )
    };
    let wrong: Vec<String> = checked.findings.iter().filter(is_wrong).map(text).collect();
    let wrong = [of_rows, wrong].concat();
    if json {
        let mended: Vec<String> = checked.mended.iter().map(text).collect();
        print_json(&json!({
            "rows": rows, "mended": mended, "wrong": wrong, "stores": checked,
        }))?;
    } else {
        print(rows, &checked, &wrong)?;
    }
    if !wrong.is_empty() || checked.left_out > 0 {
        bail!("{} things are wrong", wrong.len() as u64 + checked.left_out);
    }
    if checked.recovering {
        bail!("the metadata are recovering: `ashlar meta check --repair --all-disks` ends that");
    }
    Ok(())
}

fn print(rows: usize, checked: &MetadataChecked, wrong: &[String]) -> anyhow::Result<()> {
    for finding in &checked.mended {
        print_text(&format!("mended: {}", text(finding)))?;
    }
    let is_note =
        |finding: &&MetadataFinding| matches!(finding.kind, FindingKind::Note | FindingKind::Heals);
    for finding in checked.findings.iter().filter(is_note) {
        print_text(&format!("note: {}", text(finding)))?;
    }
    for text in wrong {
        print_text(&format!("wrong: {text}"))?;
    }
    for node in &checked.silent {
        print_text(&format!("note: node {node} told nothing of what it holds"))?;
    }
    if wrong.is_empty() {
        let (disks, replicas) = (checked.disks, checked.replicas);
        print_text(&format!(
            "{rows} rows, {replicas} replicas on {disks} disks: nothing is wrong"
        ))?;
    }
    Ok(())
}

/// `CODE: volume V, shard S: what is so`.
fn text(finding: &MetadataFinding) -> String {
    let place = match (finding.volume, finding.shard) {
        (Some(volume), Some(shard)) => format!("volume {volume}, shard {}: ", shard.get()),
        (Some(volume), None) => format!("volume {volume}: "),
        (None, _) => String::new(),
    };
    format!("{}: {place}{}", finding.code, finding.detail)
}
