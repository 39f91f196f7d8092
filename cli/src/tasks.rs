//! `ashlar task`: what the cluster is doing, and how far it has come.

use anyhow::bail;
use ashlar_proto::api::{Task, TaskState};

use crate::admin::{ask, word};
use crate::args::TaskCommand;
use crate::output::{print_json, print_table, print_text};

/// Runs one of its commands.
pub fn run(api: &str, command: &TaskCommand, json: bool) -> anyhow::Result<()> {
    match command {
        TaskCommand::List { running } => list(api, *running, json),
        TaskCommand::Show { id } => {
            let task = ask(api, async |client| {
                client.task(id, std::time::Duration::ZERO).await
            })?;
            tell(&task, json)
        }
        TaskCommand::Wait { id } => {
            let task = ask(api, async |client| client.task_ended(id).await)?;
            tell(&task, json)?;
            if task.state == TaskState::Canceled {
                bail!("task {id} was called off");
            }
            Ok(())
        }
        TaskCommand::Cancel { id } => {
            let task = ask(api, async |client| client.cancel_task(id).await)?;
            tell(&task, json)
        }
    }
}

fn list(api: &str, running: bool, json: bool) -> anyhow::Result<()> {
    let mut tasks = ask(api, async |client| client.tasks().await)?.items;
    tasks.retain(|task| !running || task.state == TaskState::Running);
    if json {
        return print_json(&tasks);
    }
    let header = ["id", "subject", "state", "progress", "left"];
    print_table(&header, tasks.iter().map(row).collect())
}

fn row(task: &Task) -> Vec<String> {
    vec![
        task.id.clone(),
        task.subject.clone(),
        word(&task.state),
        progress(task),
        left(task),
    ]
}

fn progress(task: &Task) -> String {
    let percent = task.progress_percent;
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"))
}

fn left(task: &Task) -> String {
    let seconds = task.remaining_seconds;
    let span = |seconds| humantime::format_duration(std::time::Duration::from_secs(seconds));
    seconds.map_or_else(|| "-".to_owned(), |seconds| span(seconds).to_string())
}

fn tell(task: &Task, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(task);
    }
    let mut text = format!("{} of {}: {}", task.id, task.subject, word(&task.state));
    if task.state == TaskState::Running {
        if let Some(percent) = task.progress_percent {
            text += &format!(", {percent} % done");
        }
        if task.remaining_seconds.is_some() {
            text += &format!(", about {} left", left(task));
        }
        if task.cancelable {
            text += &format!("; `ashlar task cancel {}` calls it off", task.id);
        }
    }
    print_text(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::api::TaskKind;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let mut task = Task {
            id: "drain-node-1".to_owned(),
            kind: TaskKind::DrainNode,
            subject: "store-1".to_owned(),
            state: TaskState::Running,
            progress_percent: None,
            remaining_seconds: None,
            began_ms: 0,
            ended_ms: None,
            cancelable: true,
        };
        assert_eq!(row(&task)[2..], ["running", "-", "-"]);
        task.progress_percent = Some(7);
        task.remaining_seconds = Some(90);
        assert_eq!(row(&task)[2..], ["running", "7 %", "1m 30s"]);
    }
}
