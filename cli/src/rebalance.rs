//! `ashlar rebalance`: how even the disks are, what moves between them, and what would.

use ashlar_proto::api::{
    DiskFill, DiskPlace, PlannedMove, Rebalance, RebalanceMove, RebalancePlan, RebalanceState,
    RebalanceSummary,
};

use crate::admin::ask;
use crate::output::{bytes, print_json, print_table, print_text};

/// `ashlar rebalance status`.
pub fn status(api: &str, json: bool) -> anyhow::Result<()> {
    let rebalance = ask(api, async |client| client.rebalance().await)?;
    if json {
        return print_json(&rebalance);
    }
    show(&rebalance)
}

/// `ashlar rebalance pause`, or `resume`.
pub fn pause(api: &str, paused: bool, json: bool) -> anyhow::Result<()> {
    let rebalance = ask(api, async |client| client.pause_rebalance(paused).await)?;
    if json {
        return print_json(&rebalance);
    }
    let moving = rebalance.summary.moving;
    print_text(&match (paused, moving) {
        (true, 0) => "paused: no moves begin until `ashlar rebalance resume`".to_owned(),
        (true, _) => format!(
            "paused: no moves begin until `ashlar rebalance resume`; moves under way that end: \
             {moving}"
        ),
        (false, _) => format!("resumed: {}", line(&rebalance.summary)),
    })
}

/// `ashlar rebalance --dry-run`.
pub fn dry_run(api: &str, json: bool) -> anyhow::Result<()> {
    let plan = ask(api, async |client| client.rebalance_plan().await)?;
    if json {
        return print_json(&plan);
    }
    show_plan(&plan)
}

/// Rebalance in one line.
pub fn line(summary: &RebalanceSummary) -> String {
    let RebalanceSummary {
        moving, to_come, ..
    } = *summary;
    let left = bytes(summary.bytes_left.get());
    match summary.state {
        RebalanceState::Idle => "idle".to_owned(),
        RebalanceState::Paused if moving == 0 => "paused".to_owned(),
        RebalanceState::Paused => format!("paused; {moving} under way, {left} left"),
        RebalanceState::Moving => {
            format!("moves: {moving} under way, {to_come} to come, {left} left")
        }
        RebalanceState::Waiting => {
            format!("moves: {to_come} to come after what is to heal, {left} left")
        }
    }
}

fn show(rebalance: &Rebalance) -> anyhow::Result<()> {
    let facts = [
        ("state", line(&rebalance.summary)),
        ("spread", points(rebalance.spread_permille)),
        ("starts above", points(rebalance.start_permille)),
        ("stops below", points(rebalance.stop_permille)),
    ];
    for (name, value) in facts {
        print_text(&format!("{name:<13} {value}"))?;
    }
    print_text("")?;
    show_disks(&rebalance.disks)?;
    if rebalance.moves.is_empty() {
        return Ok(());
    }
    print_text("")?;
    let header = ["volume", "shard", "bytes", "from", "to"];
    print_table(&header, rebalance.moves.iter().map(move_row).collect())
}

fn show_plan(plan: &RebalancePlan) -> anyhow::Result<()> {
    if plan.moves.is_empty() {
        print_text("no moves: disks are even enough, or no single move would make them more so\n")?;
        return show_disks(&plan.disks);
    }
    let header = [
        "volume",
        "shard",
        "bytes",
        "from",
        "to",
        "from fill",
        "to fill",
    ];
    print_table(&header, plan.moves.iter().map(planned_row).collect())?;
    let count = plan.moves.len();
    let more = if plan.complete {
        ""
    } else {
        ", and more after them"
    };
    let total = bytes(plan.bytes.get());
    print_text(&format!("\nmoves: {count}{more}; {total} in all\n"))?;
    show_disks(&plan.disks)
}

fn show_disks(disks: &[DiskFill]) -> anyhow::Result<()> {
    let header = [
        "disk", "node", "fill", "after", "used", "promised", "usable",
    ];
    let row = |disk: &DiskFill| {
        vec![
            disk.place.disk.to_string(),
            disk.place.node_name.clone(),
            points(disk.fill_permille),
            points(disk.fill_permille_after),
            bytes(disk.used_bytes.get()),
            bytes(disk.promised_bytes.get()),
            bytes(disk.usable_bytes.get()),
        ]
    };
    print_table(&header, disks.iter().map(row).collect())
}

fn move_row(what: &RebalanceMove) -> Vec<String> {
    vec![
        what.volume_name.clone(),
        what.shard.to_string(),
        bytes(what.bytes.get()),
        place(&what.from),
        place(&what.to),
    ]
}

fn planned_row(planned: &PlannedMove) -> Vec<String> {
    let mut row = move_row(&planned.what);
    let change = |before, after| format!("{} → {}", points(before), points(after));
    row.push(change(planned.from_permille, planned.from_permille_after));
    row.push(change(planned.to_permille, planned.to_permille_after));
    row
}

fn place(place: &DiskPlace) -> String {
    format!("{} ({})", place.disk, place.node_name)
}

/// Thousandths as `12.3 %`.
fn points(permille: u16) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

#[cfg(test)]
mod tests {
    use ashlar_proto::ByteCount;

    use super::*;

    #[test]
    fn one_line_says_what_rebalance_is_about() {
        let summary = |state, moving, to_come| RebalanceSummary {
            state,
            moving,
            to_come,
            bytes_left: ByteCount::new(u64::from(moving + to_come) << 30),
        };
        assert_eq!(line(&RebalanceSummary::default()), "idle");
        assert_eq!(line(&summary(RebalanceState::Paused, 0, 0)), "paused");
        assert_eq!(
            line(&summary(RebalanceState::Paused, 1, 0)),
            "paused; 1 under way, 1.0 GiB left"
        );
        assert_eq!(
            line(&summary(RebalanceState::Moving, 2, 3)),
            "moves: 2 under way, 3 to come, 5.0 GiB left"
        );
        assert_eq!(
            line(&summary(RebalanceState::Waiting, 0, 3)),
            "moves: 3 to come after what is to heal, 3.0 GiB left"
        );
    }

    #[test]
    fn thousandths_have_one_decimal() {
        assert_eq!(
            [0, 5, 123, 1000].map(points),
            ["0.0 %", "0.5 %", "12.3 %", "100.0 %"]
        );
    }
}
