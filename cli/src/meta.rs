//! `ashlar meta`: backup, restore, check and move the metadata.

mod stores;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use ashlar_conductor::meta::Change;
use ashlar_conductor::upkeep::backup::{self, Backup};
use ashlar_conductor::upkeep::check::Finding;
use ashlar_conductor::upkeep::held::Held;
use ashlar_conductor::upkeep::repair::{self, Repair};
use ashlar_conductor::upkeep::snapshot::{self, Snapshot};
use ashlar_conductor::upkeep::{Rows, restore};
use ashlar_conductor::{EtcdStore, MetaStore, RedbStore};
use ashlar_proto::ClusterId;
use ashlar_proto::api::Revision;
use serde_json::json;

use crate::admin::ask;
use crate::args::{
    BackupArgs, CheckArgs, EtcdArgs, MetaCommand, MetaPlace, MetaTarget, MigrateArgs, RestoreArgs,
};
use crate::etcd;
use crate::output::{print_json, print_text};

/// Runs one of its commands.
pub fn run(api: &str, command: MetaCommand, json: bool) -> anyhow::Result<()> {
    match command {
        MetaCommand::Backup(args) => back_up(api, &args, json),
        MetaCommand::Restore(args) => block_on(restore_backup(&args, json)),
        MetaCommand::Check(args) => check(api, &args, json),
        MetaCommand::Migrate(args) => block_on(migrate(&args, json)),
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

/// The backup, as its file has it, of the metadata at a place or behind the API.
fn taken(api: &str, place: &MetaPlace) -> anyhow::Result<Vec<u8>> {
    if let Some(data) = &place.data {
        return block_on(async { of_rows(snapshot::take(&open_file(data).await?).await?) });
    }
    if place.etcd.etcd.is_empty() {
        return ask(api, async |client| client.back_up_metadata().await);
    }
    block_on(async {
        let store = EtcdStore::open(&etcd::options(&place.etcd)?, None).await?;
        of_rows(snapshot::take(&store).await?)
    })
}

fn of_rows(snapshot: Snapshot) -> anyhow::Result<Vec<u8>> {
    let cluster = ashlar_conductor::upkeep::cluster_of(&snapshot.rows)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    Ok(backup::write(&Backup {
        cluster,
        taken_ms: u64::try_from(now)?,
        snapshot,
    }))
}

/// A directory that has metadata. It is not made: a typing error is not an empty cluster.
async fn open_file(data: &Path) -> anyhow::Result<RedbStore> {
    ensure!(data.is_dir(), "{} is no directory", data.display());
    Ok(RedbStore::open(data.to_path_buf()).await?)
}

fn back_up(api: &str, args: &BackupArgs, json: bool) -> anyhow::Result<()> {
    let bytes = taken(api, &args.place)?;
    // What is not whole is not kept.
    let read = backup::read(&bytes).context("what came is no backup")?;
    write_new(&args.file, &bytes)?;
    let rows = read.snapshot.rows.len();
    if json {
        return print_json(&json!({
            "file": args.file, "cluster": read.cluster, "rows": rows,
            "revision": read.snapshot.revision, "bytes": bytes.len(),
        }));
    }
    print_text(&format!(
        "{rows} rows of cluster {} at revision {}: {} bytes",
        read.cluster,
        read.snapshot.revision.0,
        bytes.len()
    ))
}

/// A new file that only its owner can read, durable on return.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    let named = || path.display().to_string();
    let mut file = opened.with_context(named)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half of a backup is none.
        let _ = std::fs::remove_file(path);
    }
    written.with_context(named)
}

fn read_backup(path: &Path) -> anyhow::Result<Backup> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    backup::read(&bytes).with_context(|| path.display().to_string())
}

async fn restore_backup(args: &RestoreArgs, json: bool) -> anyhow::Result<()> {
    let backup = read_backup(&args.file)?;
    let snapshot = Snapshot {
        revision: backup.snapshot.revision,
        rows: match args.exact {
            true => backup.snapshot.rows,
            false => restore::set_apart(&backup.snapshot.rows)?,
        },
    };
    put(&args.place, &snapshot, args.force).await?;
    let rows = snapshot.rows.len();
    if json {
        return print_json(&json!({ "cluster": backup.cluster, "rows": rows }));
    }
    print_text(&format!(
        "{rows} rows of cluster {} restored and compared",
        backup.cluster
    ))
}

async fn put(place: &MetaPlace, snapshot: &Snapshot, force: bool) -> anyhow::Result<()> {
    match &place.data {
        Some(data) => put_file(data, snapshot, force).await,
        None => put_etcd(&place.etcd, snapshot, force).await,
    }
}

async fn put_file(data: &Path, snapshot: &Snapshot, force: bool) -> anyhow::Result<()> {
    let store = RedbStore::open(data.to_path_buf()).await?;
    restore::fill(&store, &snapshot.rows, force).await?;
    Ok(store
        .go_on_after(Revision(snapshot.revision.0.saturating_add(1)))
        .await?)
}

async fn put_etcd(args: &EtcdArgs, snapshot: &Snapshot, force: bool) -> anyhow::Result<()> {
    let store = alone(args).await?;
    let filled = restore::fill(&store, &snapshot.rows, force).await;
    store.resign().await;
    Ok(filled?)
}

async fn alone(args: &EtcdArgs) -> anyhow::Result<EtcdStore> {
    ensure!(!args.etcd.is_empty(), "say where: give --data or --etcd");
    Ok(EtcdStore::open_alone(&etcd::options(args)?).await?)
}

async fn migrate(args: &MigrateArgs, json: bool) -> anyhow::Result<()> {
    ensure!(!args.etcd.etcd.is_empty(), "give --etcd");
    let snapshot = match args.to {
        MetaTarget::Etcd => {
            let store = open_file(&args.data).await?;
            let snapshot = snapshot::take(&store).await?;
            ensure!(
                !snapshot.rows.is_empty(),
                "there is nothing in {}",
                args.data.display()
            );
            // Open until all is there: no conductor goes on with it meanwhile.
            put_etcd(&args.etcd, &snapshot, args.force).await?;
            drop(store);
            snapshot
        }
        MetaTarget::File => {
            let store = alone(&args.etcd).await?;
            let snapshot = snapshot::take(&store).await?;
            ensure!(!snapshot.rows.is_empty(), "there is nothing in etcd");
            let copied = put_file(&args.data, &snapshot, args.force).await;
            store.resign().await;
            copied?;
            snapshot
        }
    };
    let rows = snapshot.rows.len();
    if json {
        return print_json(&json!({ "rows": rows }));
    }
    print_text(&format!("{rows} rows copied and compared"))
}

fn check(api: &str, args: &CheckArgs, json: bool) -> anyhow::Result<()> {
    let rows = match &args.file {
        Some(file) => read_backup(file)?.snapshot.rows,
        None => backup::read(&taken(api, &args.place)?)?.snapshot.rows,
    };
    let cluster = ashlar_conductor::upkeep::cluster_of(&rows)?;
    let held = disk_reports(args, cluster)?;
    let is_here = args.place.data.is_some() || !args.place.etcd.etcd.is_empty();
    if !is_here && args.file.is_none() {
        let left = repair::check_held(&rows, &held);
        return stores::check(api, args, rows.len(), &left, json);
    }
    if !args.repair {
        return tell(&rows, &[], &repair::check_held(&rows, &held), json);
    }
    let (rows, repair) = block_on(mend(&args.place, &held))?;
    tell(&rows, &repair.mended, &repair.left, json)
}

fn disk_reports(args: &CheckArgs, cluster: ClusterId) -> anyhow::Result<Held> {
    let mut held = Held::default();
    for path in &args.disk_report {
        let named = || path.display().to_string();
        let report = std::fs::read(path).with_context(named)?;
        held.add(&report, cluster).with_context(named)?;
    }
    Ok(held)
}

/// Plans and carries out what is certain, on the rows as they are while nobody else changes them.
async fn mend(place: &MetaPlace, held: &Held) -> anyhow::Result<(Rows, Repair)> {
    match &place.data {
        Some(data) => mend_in(&open_file(data).await?, held).await,
        None => {
            let store = alone(&place.etcd).await?;
            let mended = mend_in(&store, held).await;
            store.resign().await;
            mended
        }
    }
}

async fn mend_in(store: &impl MetaStore, held: &Held) -> anyhow::Result<(Rows, Repair)> {
    let rows = snapshot::take(store).await?.rows;
    let mut repair = repair::plan(&rows, held);
    let changes: Vec<Change> = std::mem::take(&mut repair.changes);
    restore::apply(store, changes).await?;
    Ok((rows, repair))
}

fn tell(rows: &Rows, mended: &[Finding], left: &[Finding], json: bool) -> anyhow::Result<()> {
    let texts = |list: &[Finding]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    if json {
        let view = json!({ "rows": rows.len(), "mended": texts(mended), "wrong": texts(left) });
        print_json(&view)?;
    } else {
        for text in texts(mended) {
            print_text(&format!("mended: {text}"))?;
        }
        for text in texts(left) {
            print_text(&format!("wrong: {text}"))?;
        }
        if left.is_empty() {
            print_text(&format!("{} rows: nothing is wrong", rows.len()))?;
        }
    }
    if !left.is_empty() {
        bail!("{} things are wrong with {} rows", left.len(), rows.len());
    }
    Ok(())
}
