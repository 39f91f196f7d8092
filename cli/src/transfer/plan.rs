//! What an import has to do: which volume, made anew or not, and from where on.

use std::io::ErrorKind;

use anyhow::{Context, anyhow, ensure};
use ashlar_image::Format;
use ashlar_proto::ByteCount;
use ashlar_proto::api::{CreateVolume, Reserve, Volume};

use super::checksum::Sha256;
use super::file::{Identity, word};
use super::journal::{ImportJournal, JournalFile, Mark, VERSION};
use crate::admin::ask;
use crate::args::ImportArgs;
use crate::output::bytes;
use ashlar_api_client::ApiError;

/// What is to be done, once the volume is there.
pub struct Plan {
    pub volume: Volume,
    /// None where it cannot be resumed.
    pub journal: Option<(JournalFile, ImportJournal)>,
    /// What is imported already.
    pub done: Option<Mark>,
    /// Whether the volume may hold something where the image has zeroes.
    pub write_zeroes: bool,
}

impl Plan {
    /// Finds or makes the volume, and what was done already. `identity` is that of the file, none of a
    /// pipe, which cannot be resumed.
    ///
    /// # Errors
    /// When what is there does not fit, or the conductor refuses.
    pub fn make(
        api: &str,
        args: &ImportArgs,
        identity: Option<&Identity>,
        format: Format,
        size_bytes: u64,
    ) -> anyhow::Result<Self> {
        let Some(identity) = identity else {
            let volume = if args.into_existing {
                existing(api, args, size_bytes)?
            } else {
                create(api, args, size_bytes)?
            };
            return Ok(Self {
                volume,
                journal: None,
                done: None,
                write_zeroes: args.into_existing,
            });
        };
        let file = JournalFile::beside(&args.file, "ashlar-import");
        let new = ImportJournal {
            version: VERSION,
            source: identity.clone(),
            format: word(format).to_owned(),
            volume: args.volume.clone(),
            volume_id: None,
            into_existing: false,
            mark: Mark {
                done_bytes: 0,
                sha256: Sha256::new().text(),
            },
        };
        let old = file.load::<ImportJournal>()?;
        let (journal, found) = match old {
            Some(old) if !args.restart => {
                check_same(args, &old, &new)?;
                let found = resumed(api, args, &old, size_bytes)?;
                (old, found)
            }
            old => begun(api, args, old, new, size_bytes)?,
        };
        Self::carry_out(api, args, file, journal, found, size_bytes)
    }

    /// Makes the volume if there is none, between two states of the journal.
    fn carry_out(
        api: &str,
        args: &ImportArgs,
        file: JournalFile,
        mut journal: ImportJournal,
        found: Option<Volume>,
        size_bytes: u64,
    ) -> anyhow::Result<Self> {
        let kept = save_first(&file, &journal)?;
        let volume = match found {
            Some(volume) => volume,
            None => create(api, args, size_bytes).inspect_err(|error| {
                let refused = error.downcast_ref::<ApiError>();
                if kept && refused.is_some_and(|error| error.problem().is_some()) {
                    // Nothing was made: nothing is to be resumed.
                    let _ = file.remove();
                }
            })?,
        };
        journal.volume_id = Some(volume.id);
        if kept {
            file.save(&journal)?;
        }
        let mark = Some(journal.mark.clone());
        Ok(Self {
            write_zeroes: journal.into_existing,
            done: mark.filter(|mark| mark.done_bytes > 0),
            journal: kept.then_some((file, journal)),
            volume,
        })
    }
}

/// An import from the beginning, into a volume that there is if that was asked for, or if an earlier
/// run made it for this.
fn begun(
    api: &str,
    args: &ImportArgs,
    old: Option<ImportJournal>,
    new: ImportJournal,
    size_bytes: u64,
) -> anyhow::Result<(ImportJournal, Option<Volume>)> {
    if args.into_existing {
        let found = existing(api, args, size_bytes)?;
        let into_existing = true;
        return Ok((
            ImportJournal {
                into_existing,
                ..new
            },
            Some(found),
        ));
    }
    let own = old.filter(|old| old.volume == args.volume);
    let own = own.and_then(|old| old.volume_id);
    let found = find(api, &args.volume)?.filter(|found| own == Some(found.id));
    if let Some(found) = &found {
        check_room(found, size_bytes)?;
    }
    let into_existing = found.is_some();
    Ok((
        ImportJournal {
            into_existing,
            ..new
        },
        found,
    ))
}

/// Writes the journal; false where files cannot be made there.
fn save_first(file: &JournalFile, journal: &ImportJournal) -> anyhow::Result<bool> {
    let Err(error) = file.save(journal) else {
        return Ok(true);
    };
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    match kind {
        Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            eprintln!("note: {error}: if it is interrupted, this import cannot be resumed");
            Ok(false)
        }
        _ => Err(error),
    }
}

fn check_same(args: &ImportArgs, old: &ImportJournal, new: &ImportJournal) -> anyhow::Result<()> {
    let file = args.file.display();
    ensure!(
        old.volume == new.volume,
        "an import of {file} into {} is not finished: finish it, or forget it with --restart",
        old.volume
    );
    ensure!(
        old.source == new.source,
        "{file} has changed since its import began: begin anew with --restart"
    );
    ensure!(
        old.format == new.format,
        "the import of {file} began with --format {}: go on with that, or begin anew with --restart",
        old.format
    );
    Ok(())
}

/// The volume that an earlier run filled; none if it came to make none.
fn resumed(
    api: &str,
    args: &ImportArgs,
    journal: &ImportJournal,
    size_bytes: u64,
) -> anyhow::Result<Option<Volume>> {
    let name = &args.volume;
    let found = find(api, name)?;
    let Some(id) = journal.volume_id else {
        let never_used =
            |found: &Volume| found.generation.get() == 0 && found.size_bytes.get() == size_bytes;
        return match found {
            Some(found) if never_used(&found) => Ok(Some(found)),
            Some(_) => Err(anyhow!(
                "there is a volume {name} already: give another name, or --restart and \
                 --into-existing to overwrite it"
            )),
            None => Ok(None),
        };
    };
    let found = found.with_context(|| {
        format!("the volume {name} (id {id}) that the import began to fill is gone: begin anew with --restart")
    })?;
    ensure!(
        found.id == id,
        "the import began to fill another volume {name} (id {id}) than there is now (id {}): begin \
         anew with --restart and another name, or with --restart --into-existing to overwrite it",
        found.id
    );
    if args.size.is_some() {
        ensure!(
            found.size_bytes.get() == size_bytes,
            "the import began with a volume of {}: leave --size out to go on, or delete the volume",
            bytes(found.size_bytes.get())
        );
    }
    Ok(Some(found))
}

fn existing(api: &str, args: &ImportArgs, size_bytes: u64) -> anyhow::Result<Volume> {
    let name = &args.volume;
    let found = find(api, name)?;
    let found =
        found.with_context(|| format!("there is no volume {name}: leave --into-existing out"))?;
    check_room(&found, size_bytes)?;
    Ok(found)
}

fn check_room(found: &Volume, size_bytes: u64) -> anyhow::Result<()> {
    ensure!(
        found.size_bytes.get() >= size_bytes,
        "the volume {} has {}, and the image {}: it does not fit",
        found.name,
        bytes(found.size_bytes.get()),
        bytes(size_bytes)
    );
    Ok(())
}

fn create(api: &str, args: &ImportArgs, size_bytes: u64) -> anyhow::Result<Volume> {
    let request = CreateVolume {
        settings: std::collections::BTreeMap::new(),
        name: args.volume.clone(),
        size_bytes: ByteCount::new(size_bytes),
        replicas: args.replicas,
        ack: args.ack.into(),
        reserve: Reserve::None,
        labels: std::collections::BTreeMap::new(),
    };
    ask(api, async |client| client.create_volume(&request).await)
        .with_context(|| format!("cannot create the volume {}", args.volume))
}

fn find(api: &str, name: &str) -> anyhow::Result<Option<Volume>> {
    match ask(api, async |client| client.volume(name).await) {
        Ok(volume) => Ok(Some(volume)),
        Err(error) => match error.downcast_ref::<ApiError>() {
            Some(refused) if refused.http_status() == Some(404) => Ok(None),
            _ => Err(error),
        },
    }
}
