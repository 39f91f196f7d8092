//! `ashlar volume export`: writes a volume's content into a file beside the final one, then renames.
//!
//! Going on after an interruption: the partial file's content is hashed and compared with the
//! journal. If nobody has attached the volume since, that is enough; otherwise the volume's own content
//! up to there is compared, too, so what comes out is the volume's content at one time.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail, ensure};
use ashlar_client::BlockDevice;
use ashlar_image::{DeviceTarget, Format, Image, Qcow2Target, RawTarget, StreamTarget, Target};
use ashlar_proto::{Generation, VolumeId};
use ashlar_reactor::Reactor;
use serde::Serialize;

use super::Interrupted;
use super::checksum::Sha256;
use super::file::word;
use super::journal::{ExportJournal, Mark, VERSION, remove_file};
use super::place::{Files, Place, format_of, old_journal, place};
use super::progress::Progress;
use super::reading::{Given, Giver};
use super::session::{self, Access, Stop, aside};
use super::writer::{self, Output, VolumeChanged, Written};
use crate::admin::ask;
use crate::args::{ExportArgs, SnapshotName};
use crate::output::{bytes, print_json, print_text};

/// What an export has done.
#[derive(Debug, Serialize)]
struct ExportReport {
    volume: String,
    volume_id: String,
    format: &'static str,
    size_bytes: u64,
    /// Read from the volume by this run.
    data_bytes: u64,
    /// Where this run went on.
    resumed_at_bytes: u64,
    sha256: String,
    seconds: f64,
}

/// What is exported.
#[derive(Clone)]
struct Content {
    name: String,
    id: VolumeId,
    /// Of the attachment: another one means that somebody else may have written. Of a snapshot: its
    /// layer.
    generation: Generation,
    size_bytes: u64,
}

/// Runs it.
pub fn run(api: &str, args: &ExportArgs, json: bool) -> anyhow::Result<()> {
    let name = args.volume.as_str();
    let format = format_of(args)?;
    let place = place(args)?;
    let journal = old_journal(args, &place, format)?;
    let to_stdout = matches!(place, Place::Stdout(_));
    // Attaching would wait for a conductor that is not there, and has no word of its own for no volume.
    match name.parse::<SnapshotName>() {
        Ok(SnapshotName { volume, snapshot }) => {
            ask(api, async |client| {
                client.snapshot(&volume, &snapshot).await
            })
            .map(drop)?;
        }
        Err(_) => ask(api, async |client| client.volume(name).await).map(drop)?,
    }
    let began = Instant::now();
    let access = Access {
        api,
        name,
        role: session::EXPORT,
        reactor: &args.reactor,
    };
    let exported = session::with_volume(&access, async |reactor, volume, stop| {
        let content = Content {
            name: name.to_owned(),
            id: volume.id(),
            generation: Generation::new(volume.version()),
            size_bytes: volume.geometry().size_bytes,
        };
        let job = Job {
            progress: Arc::new(Progress::new(args.quiet, Some(content.size_bytes))),
            content,
            format,
            force: args.force,
        };
        let resumed_at = journal.as_ref().map_or(0, |old| old.mark.done_bytes);
        let written = job.run(&reactor, volume, &stop, place, journal).await;
        job.progress.end();
        Ok((job.content, resumed_at, written?))
    });
    let (content, resumed_at_bytes, written) = exported?;
    let report = ExportReport {
        volume: content.name,
        volume_id: content.id.to_string(),
        format: word(format),
        size_bytes: content.size_bytes,
        data_bytes: written.data_bytes,
        resumed_at_bytes,
        sha256: written.mark.sha256,
        seconds: began.elapsed().as_secs_f64(),
    };
    show(args, &report, json, to_stdout)
}

/// Standard output may be the image: then it goes to standard error.
fn show(args: &ExportArgs, report: &ExportReport, json: bool, aside: bool) -> anyhow::Result<()> {
    if json && !aside {
        return print_json(report);
    }
    if json {
        eprintln!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let resumed = match report.resumed_at_bytes {
        0 => String::new(),
        at => format!(", from {} on", bytes(at)),
    };
    let text = format!(
        "exported {} ({}) into {} ({}): {} of data in {:.1} s{resumed}\nsha256 {}",
        report.volume,
        bytes(report.size_bytes),
        args.file.display(),
        report.format,
        bytes(report.data_bytes),
        report.seconds,
        report.sha256
    );
    if aside {
        eprintln!("{text}");
        return Ok(());
    }
    print_text(&text)
}

struct Job {
    content: Content,
    format: Format,
    force: bool,
    progress: Arc<Progress>,
}

impl Job {
    async fn run<D: BlockDevice>(
        &self,
        reactor: &Reactor,
        device: D,
        stop: &Stop,
        place: Place,
        journal: Option<ExportJournal>,
    ) -> anyhow::Result<Written> {
        let size = self.content.size_bytes;
        let output = match (place, journal) {
            (Place::File(files), Some(old)) => self.resume(files, old).await?,
            (Place::File(files), None) => self.begin(files).await?,
            (Place::Stdout(file), _) => {
                self.plain(Target::Stream(StreamTarget::new(Box::new(file))))
            }
            (Place::Device(path), _) => {
                let device = OpenOptions::new().read(true).write(true).open(&path);
                let device = device.with_context(|| format!("cannot open {}", path.display()))?;
                self.plain(Target::Device(DeviceTarget::new(device, size)?))
            }
        };
        let resumable = output.journal.is_some();
        let written = self.transfer(reactor, device, stop, output).await;
        written.map_err(|error| {
            if error.is::<VolumeChanged>() {
                return error;
            }
            let goes_on = "the same command goes on with it";
            let then = if resumable { goes_on } else { "begin anew" };
            let name = &self.content.name;
            error.context(format!("the export of {name} is not finished; {then}"))
        })
    }

    /// Reads the volume and has it written, to the end.
    async fn transfer<D: BlockDevice>(
        &self,
        reactor: &Reactor,
        device: D,
        stop: &Stop,
        output: Output,
    ) -> anyhow::Result<Written> {
        let size = self.content.size_bytes;
        let from = output.from;
        let done = output.done.as_ref().map_or(from, |mark| mark.done_bytes);
        self.progress.begin("exporting", from);
        let (pieces, outcome) = writer::start(output)?;
        let mut giver = Giver::new(reactor, device, &pieces, stop);
        // What is compared ends where the earlier run did.
        let mut given = Ok(Given::All);
        for range in [from..done, done..size] {
            if !matches!(given, Ok(Given::All)) {
                break;
            }
            given = giver.give(range).await;
        }
        if matches!(given, Ok(Given::All)) {
            // One that has ended says why.
            let _ = pieces.send(writer::Piece::End).await;
        }
        drop(giver);
        drop(pieces);
        let written = outcome.recv().await;
        let written = written.unwrap_or_else(|| Err(anyhow!("the writing thread has ended")));
        given?;
        let written = written?;
        if !written.is_whole {
            bail!(Interrupted {
                done: written.mark.done_bytes.max(done),
                total: size,
            });
        }
        Ok(written)
    }

    /// Somewhere that cannot be resumed.
    fn plain(&self, target: Target) -> Output {
        Output {
            target,
            journal: None,
            rename: None,
            force: self.force,
            done: None,
            from: 0,
            hash: Sha256::new(),
            progress: Arc::clone(&self.progress),
        }
    }

    fn journal(&self, mark: Mark, next_cluster: Option<u64>) -> ExportJournal {
        ExportJournal {
            version: VERSION,
            format: word(self.format).to_owned(),
            volume: self.content.name.clone(),
            volume_id: self.content.id,
            generation: self.content.generation,
            size_bytes: self.content.size_bytes,
            next_cluster,
            mark,
        }
    }

    async fn begin(&self, files: Files) -> anyhow::Result<Output> {
        let (size, format) = (self.content.size_bytes, self.format);
        let hash = Sha256::new();
        let mark = Mark {
            done_bytes: 0,
            sha256: hash.text(),
        };
        let journal = self.journal(mark, None);
        let made = files.clone();
        let target = aside(move || {
            // In this order: a journal never speaks of another partial file.
            made.journal.remove()?;
            remove_file(&made.partial)?;
            let file = open_partial(&made.partial, true)?;
            Ok(match format {
                Format::Raw => Target::Raw(RawTarget::new(file, size, 0)?),
                Format::Qcow2 => Target::Qcow2(Box::new(Qcow2Target::create(file, size)?)),
            })
        });
        let target = target.await?;
        Ok(Output {
            journal: Some((files.journal, journal)),
            rename: Some((files.partial, files.path)),
            hash,
            ..self.plain(target)
        })
    }

    async fn resume(&self, files: Files, old: ExportJournal) -> anyhow::Result<Output> {
        let content = &self.content;
        ensure!(
            old.volume_id == content.id,
            "the export began with another volume {} (id {}) than there is now (id {}): begin anew \
             with --restart",
            content.name,
            old.volume_id,
            content.id
        );
        ensure!(
            old.size_bytes == content.size_bytes,
            "the volume's size has changed since the export began: begin anew with --restart"
        );
        let is_unchanged = old.generation.get().checked_add(1) == Some(content.generation.get());
        let journal = self.journal(old.mark.clone(), old.next_cluster);
        self.progress.begin("checking what is exported", 0);
        let (progress, format) = (Arc::clone(&self.progress), self.format);
        let (parts, saved) = (files.clone(), journal.clone());
        let taken_up = aside(move || {
            let taken_up = take_up(&parts.partial, format, &saved, &progress);
            let taken_up = taken_up.with_context(|| {
                format!(
                    "cannot go on with {}: begin anew with --restart",
                    parts.partial.display()
                )
            })?;
            if is_unchanged {
                parts.journal.save(&saved)?;
            }
            Ok(taken_up)
        });
        let (target, hash) = taken_up.await?;
        if !is_unchanged {
            self.progress.note(
                "the volume was attached since the export began: its content is compared with what \
                 is exported",
            );
        }
        let output = Output {
            journal: Some((files.journal, journal)),
            rename: Some((files.partial, files.path)),
            ..self.plain(target)
        };
        Ok(if is_unchanged {
            Output {
                from: old.mark.done_bytes,
                hash,
                ..output
            }
        } else {
            Output {
                done: Some(old.mark),
                ..output
            }
        })
    }
}

fn open_partial(path: &Path, new: bool) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create_new(new).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))
}

/// Checks a partial file, and makes it ready to go on.
fn take_up(
    partial: &Path,
    format: Format,
    journal: &ExportJournal,
    progress: &Progress,
) -> anyhow::Result<(Target, Sha256)> {
    let done = &journal.mark;
    let file = open_partial(partial, false)?;
    let mut image = Image::open(file.try_clone()?, format)?;
    let hash = writer::check_partial(&mut image, done, progress)?;
    drop(image);
    let target = match (format, journal.next_cluster) {
        (Format::Raw, _) => Target::Raw(RawTarget::new(file, journal.size_bytes, done.done_bytes)?),
        (Format::Qcow2, Some(next)) => {
            let size = journal.size_bytes;
            let target = Qcow2Target::resume(file, size, next, done.done_bytes)?;
            Target::Qcow2(Box::new(target))
        }
        (Format::Qcow2, None) => bail!("the journal does not say where the file goes on"),
    };
    Ok((target, hash))
}
