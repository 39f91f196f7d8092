//! Images into volumes and back: the same bytes, whatever the format, and whatever comes between.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Service, Tool, binary, image};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// How long an image may take to be copied on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// `ashlar up` with little space: these tests run beside others.
fn small() -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        disk_size: "2GiB".to_owned(),
        ..ClusterOptions::default()
    })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn random(len: u64, mut word: u64) -> Vec<u8> {
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (word ^ word >> 29).to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.collect();
    bytes.truncate(usize::try_from(len).expect("small"));
    bytes
}

/// An ext4 image of `mib` MiB with some `data_mib` MiB in its files: text and noise.
fn ext4(directory: &Path, mib: u64, data_mib: u64) -> Result<PathBuf> {
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("sub"))?;
    for number in 0..data_mib / 4 {
        let name = format!("sub/noise-{number}");
        fs::write(tree.join(name), random(2 * MIB, number + 7))?;
        let line = format!("line {number} of a file that packs well\n");
        fs::write(
            tree.join(format!("text-{number}")),
            line.repeat(2 << 20 >> 5),
        )?;
    }
    let path = directory.join("disk.img");
    Tool::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .arg(&tree)
        .arg(&path)
        .arg(format!("{mib}M"))
        .check()?;
    fs::remove_dir_all(&tree)?;
    Ok(path)
}

/// A raw image of noise with a hole in the middle: it takes a while.
fn noise(path: &Path, mib: u64) -> Result<()> {
    let file = fs::File::create(path)?;
    file.set_len(mib * MIB)?;
    let block = random(MIB, 3);
    for at in (0..mib).filter(|at| at * 10 / mib != 5) {
        file.write_all_at(&at.to_le_bytes(), at * MIB)?;
        file.write_all_at(&block[8..], at * MIB + 8)?;
    }
    Ok(())
}

fn qemu_img<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    Tool::new("qemu-img").args(arguments).limit(LIMIT).check()
}

fn identical(left: &Path, right: &Path) -> Result<()> {
    let told = qemu_img(["compare", text(left), text(right)])?;
    ensure!(told.contains("identical"), "{told}");
    Ok(())
}

/// `ashlar volume VERB …` with JSON.
fn transfer(cluster: &Cluster, verb: &str, arguments: &[&str]) -> Result<Value> {
    let line = ["volume", verb]
        .into_iter()
        .chain(arguments.iter().copied());
    let told = cluster.ashlar(line).args(["--quiet", "--json"]);
    let told = told.limit(LIMIT).check()?;
    serde_json::from_str(&told).with_context(|| format!("no JSON: {told}"))
}

/// What it complains of, and its exit code.
fn refused(cluster: &Cluster, verb: &str, arguments: &[&str]) -> Result<(String, Option<i32>)> {
    let line = ["volume", verb]
        .into_iter()
        .chain(arguments.iter().copied());
    let ended = cluster.ashlar(line).limit(LIMIT).run()?;
    ensure!(!ended.status.success(), "`{}` should fail", ended.line);
    Ok((ended.stderr.clone(), ended.code()))
}

fn says(told: &(String, Option<i32>), what: &str) -> Result<()> {
    ensure!(told.0.contains(what), "{told:?} should say `{what}`");
    Ok(())
}

fn delete(cluster: &Cluster, volume: &str) -> Result<()> {
    cluster.ashlar(["volume", "delete", volume]).check()?;
    Ok(())
}

#[test]
fn a_file_system_comes_back_whatever_the_formats() -> Result<()> {
    let cluster = small()?;
    let directory = cluster.path();
    let raw = ext4(directory, 256, 80)?;
    let sum = image::sha256(&raw)?;
    let mut images = vec![raw.clone()];
    for (name, options) in [
        ("plain.qcow2", &[][..]),
        ("old.qcow2", &["-o", "compat=0.10"]),
        ("small.qcow2", &["-o", "cluster_size=4k"]),
        ("large.qcow2", &["-c", "-o", "cluster_size=2M"]),
        ("zlib.qcow2", &["-c"]),
        ("zstd.qcow2", &["-c", "-o", "compression_type=zstd"]),
    ] {
        let path = directory.join(name);
        let convert = ["convert", "-f", "raw", "-O", "qcow2"];
        let files = [text(&raw), text(&path)];
        let line = convert.iter().chain(options).chain(&files);
        qemu_img(line.copied())?;
        images.push(path);
    }
    for path in &images {
        let told = transfer(&cluster, "import", &[text(path), "data"])?;
        ensure!(told["sha256"] == sum.as_str(), "{told}");
        ensure!(told["size_bytes"] == 256 * MIB, "{told}");
        ensure!(told["data_bytes"].as_u64() < Some(120 * MIB), "{told}");
        let journal = format!("{}.ashlar-import", path.display());
        ensure!(!Path::new(&journal).exists(), "{journal} is still there");
        let out = directory.join("out.img");
        let told = transfer(&cluster, "export", &["data", text(&out)])?;
        ensure!(told["sha256"] == sum.as_str(), "{told}");
        ensure!(image::sha256(&out)? == sum, "{}", path.display());
        let used = fs::metadata(&out)?.blocks() * 512;
        ensure!(used < 130 * MIB, "the export is not sparse: {used}");
        fs::remove_file(&out)?;
        if path != images.last().context("some")? {
            delete(&cluster, "data")?;
        }
    }
    let out = directory.join("out.qcow2");
    let told = transfer(&cluster, "export", &["data", text(&out)])?;
    ensure!(
        told["sha256"] == sum.as_str() && told["format"] == "qcow2",
        "{told}"
    );
    qemu_img(["check", text(&out)])?;
    identical(&raw, &out)?;
    let used = fs::metadata(&out)?.len();
    ensure!(used < 130 * MIB, "the export is not sparse: {used}");

    // Ours is read again, and NBD clients see the same bytes.
    delete(&cluster, "data")?;
    let told = transfer(&cluster, "import", &[text(&out), "data"])?;
    ensure!(told["sha256"] == sum.as_str(), "{told}");
    let copy = directory.join("copy.img");
    let copied = Tool::new("nbdcopy").arg(cluster.uri("data")).arg(&copy);
    copied.limit(LIMIT).check()?;
    ensure!(
        image::sha256(&copy)? == sum,
        "an NBD client sees other bytes"
    );
    image::check_ext4(&copy)?;
    Ok(())
}

#[test]
fn pipes_sizes_and_existing_volumes() -> Result<()> {
    let cluster = small()?;
    let directory = cluster.path();
    let bytes = random(3 * MIB + 1000, 1);
    let path = directory.join("odd.img");
    fs::write(&path, &bytes)?;
    let sum = image::sha256(&path)?;

    // An odd size is rounded up; the sum is that of the image.
    let told = transfer(&cluster, "import", &[text(&path), "odd"])?;
    ensure!(told["sha256"] == sum.as_str(), "{told}");
    ensure!(told["image_bytes"] == 3 * MIB + 1000, "{told}");
    ensure!(told["size_bytes"] == 3 * MIB + 4096, "{told}");
    says(
        &refused(&cluster, "import", &[text(&path), "odd"])?,
        "exists",
    )?;
    says(
        &refused(&cluster, "import", &[text(&path), "less", "--size", "1MiB"])?,
        "less than the image",
    )?;

    // In and out through pipes.
    let line = ["volume", "import", "-", "piped", "--size", "8MiB", "--json"];
    let told = cluster.ashlar(line).stdin(bytes.clone()).check()?;
    ensure!(told.contains(&sum), "{told}");
    let api = format!("http://{}", cluster.api_address());
    let script = format!(
        "{} volume export piped - 2>/dev/null | sha256sum",
        binary::ashlar().display()
    );
    let shell = Tool::new("sh").args(["-c", &script]);
    let piped = shell.env("ASHLAR_API", &api).check()?;
    let mut padded = bytes.clone();
    padded.resize(usize::try_from(8 * MIB)?, 0);
    fs::write(directory.join("padded"), &padded)?;
    let expected = image::sha256(&directory.join("padded"))?;
    ensure!(piped.contains(&expected), "{piped}");
    let told = refused(&cluster, "import", &["-", "other"])?;
    says(&told, "--size")?;
    let line = ["volume", "import", "-", "short", "--size", "1MiB"];
    let told = cluster.ashlar(line).stdin(bytes.clone()).run()?;
    ensure!(told.stderr.contains("longer than the volume"), "{told:?}");
    let line = ["volume", "import", "-", "no", "--size", "1MiB"];
    let told = cluster.ashlar(line).stdin(*b"QFI\xfb and so on").run()?;
    ensure!(told.stderr.contains("from a pipe"), "{told:?}");

    // A volume that holds something: zeroes of the image count, and so does what is behind it.
    let sparse = directory.join("sparse.img");
    let file = fs::File::create(&sparse)?;
    file.set_len(2 * MIB)?;
    file.write_all_at(b"here", MIB)?;
    let into = [text(&sparse), "piped", "--into-existing"];
    transfer(&cluster, "import", &into)?;
    file.set_len(8 * MIB)?;
    let out = directory.join("out.img");
    transfer(&cluster, "export", &["piped", text(&out)])?;
    ensure!(
        image::sha256(&out)? == image::sha256(&sparse)?,
        "old bytes are left"
    );
    file.set_len(9 * MIB)?;
    says(&refused(&cluster, "import", &into)?, "does not fit")?;

    // Nothing is overwritten by accident.
    says(
        &refused(&cluster, "export", &["piped", text(&out)])?,
        "--force",
    )?;
    transfer(&cluster, "export", &["odd", text(&out), "--force"])?;
    ensure!(fs::metadata(&out)?.len() == 3 * MIB + 4096);
    let told = refused(&cluster, "export", &["nothing", "x.img"])?;
    ensure!(told.1 != Some(0) && told.0.contains("nothing"), "{told:?}");
    says(&refused(&cluster, "import", &[text(&out), "a@b"])?, "no @")?;
    says(
        &refused(&cluster, "export", &["odd@none", "x.img"])?,
        "no snapshot",
    )?;
    let told = refused(&cluster, "export", &["odd", "-", "--format", "qcow2"])?;
    says(&told, "pipe")?;
    Ok(())
}

#[test]
fn bad_images_are_refused_before_anything_is_made() -> Result<()> {
    let cluster = small()?;
    let directory = cluster.path();
    let at = |name: &str| directory.join(name);
    fs::write(at("text.qcow2"), "this is a text, and no image\n")?;
    fs::write(at("empty.img"), "")?;
    fs::write(at("raw.img"), random(4 * MIB, 5))?;
    let (raw, whole) = (at("raw.img"), at("whole.qcow2"));
    qemu_img(["convert", "-O", "qcow2", text(&raw), text(&whole)])?;
    let bytes = fs::read(&whole)?;
    fs::write(at("cut.qcow2"), &bytes[..bytes.len() / 2])?;
    let overlay = at("overlay.qcow2");
    let create = ["create", "-q", "-f", "qcow2"];
    let with = |more: [&'static str; 2]| create.iter().copied().chain(more);
    let backing = ["-b", text(&whole), "-F", "qcow2", text(&overlay)];
    qemu_img(create.into_iter().chain(backing))?;
    let (extended, external) = (at("extended.qcow2"), at("external.qcow2"));
    qemu_img(with(["-o", "extended_l2=on"]).chain([text(&extended), "4M"]))?;
    let data = format!("data_file={}", text(&at("external.raw")));
    qemu_img(
        create
            .into_iter()
            .chain(["-o", &data, text(&external), "4M"]),
    )?;
    for (name, arguments, what) in [
        ("text.qcow2", &["--format", "qcow2"][..], "no qcow2 image"),
        ("empty.img", &[], "is empty"),
        ("cut.qcow2", &[], "truncated"),
        ("overlay.qcow2", &[], "has a backing file"),
        ("overlay.qcow2", &[], "qemu-img convert"),
        ("extended.qcow2", &[], "subclusters"),
        ("external.qcow2", &[], "another file"),
        ("nowhere.img", &[], "No such file"),
        (".", &[], "directory"),
    ] {
        let path = at(name);
        let line: Vec<&str> = [text(&path), "bad"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        let told = refused(&cluster, "import", &line)?;
        says(&told, what)?;
        ensure!(!told.0.contains("panicked"), "{told:?}");
    }
    let volumes = cluster.json(["volume", "list"])?;
    ensure!(volumes == serde_json::json!([]), "{volumes}");
    let left: Vec<_> = fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().contains("ashlar-import"))
        .collect();
    ensure!(left.is_empty(), "journals are left: {left:?}");
    Ok(())
}

/// Starts `ashlar volume VERB …` to be ended by a signal.
fn start(cluster: &Cluster, verb: &str, arguments: &[&str]) -> Result<Service> {
    let log = cluster.path().join(format!("{verb}.log"));
    let api = format!("http://{}", cluster.api_address());
    let line = ["volume", verb, "--api", &api];
    let line = line.iter().chain(arguments).copied();
    Service::start(verb, &log, binary::ashlar(), line)
}

/// Kills the transfer again and again, each time a little later than it got going, until one is
/// through, or `ended` finds after a kill that one was; gives how often.
fn kill_until_done(
    cluster: &Cluster,
    verb: &str,
    arguments: &[&str],
    mut ended: impl FnMut(u32) -> Result<bool>,
) -> Result<u32> {
    for kills in 0..60 {
        let mut service = start(cluster, verb, arguments)?;
        let pauses = [3, 90, 250, 400, 600, 800, 1100];
        let pause = pauses.get(kills as usize).copied().unwrap_or(1500);
        std::thread::sleep(Duration::from_millis(pause));
        if !service.is_running() {
            let status = service.wait(LIMIT)?;
            ensure!(status.success(), "{}", service.log());
            return Ok(kills);
        }
        service.kill();
        if ended(kills)? {
            return Ok(kills + 1);
        }
    }
    anyhow::bail!("{verb} never comes to its end")
}

#[test]
fn killed_imports_and_exports_go_on() -> Result<()> {
    let cluster = small()?;
    let directory = cluster.path();
    let path = directory.join("noise.img");
    noise(&path, 700)?;
    let sum = image::sha256(&path)?;
    let arguments = [text(&path), "noise", "--replicas", "1"];
    let mut other = None;
    let journal = directory.join("noise.img.ashlar-import");
    let kills = kill_until_done(&cluster, "import", &arguments, |kills| {
        // Killed in its last moment: it is whole then, which the exports show, and may not begin anew.
        let exists = || cluster.json(["volume", "show", "noise"]).is_ok();
        if !journal.exists() && exists() {
            let again = refused(&cluster, "import", &arguments)?;
            says(&again, "exists already")?;
            return Ok(true);
        }
        if kills == 4 {
            // Another file beside: it is another import.
            let told = refused(&cluster, "import", &[text(&path), "elsewhere"])?;
            other = Some(told);
        }
        Ok(false)
    })?;
    ensure!(kills >= 3, "killed {kills} times");
    if let Some(told) = other {
        says(&told, "is not finished")?;
    }
    println!("the import was killed {kills} times");
    for name in ["out.img", "out.qcow2"] {
        let out = directory.join(name);
        let arguments = ["noise", text(&out)];
        let kills = kill_until_done(&cluster, "export", &arguments, |_| {
            // Killed in its last moment: it is whole then, and once more from the start.
            if out.exists() {
                identical(&path, &out).context("it is there before it is whole")?;
                fs::remove_file(&out)?;
            }
            Ok(false)
        })?;
        println!("the export to {name} was killed {kills} times");
        ensure!(kills >= 2, "killed {kills} times");
        identical(&path, &out)?;
        let log = fs::read_to_string(directory.join("export.log"))?;
        ensure!(log.contains(&sum), "{log}");
        if name == "out.qcow2" {
            qemu_img(["check", text(&out)])?;
        }
        fs::remove_file(&out)?;
    }
    Ok(())
}

/// Starts it, waits for a journal that says something is done, and ends it.
fn interrupt(
    cluster: &Cluster,
    verb: &str,
    arguments: &[&str],
    journal: &Path,
    signal: Signal,
) -> Result<(Value, Option<i32>)> {
    let mut service = start(cluster, verb, arguments)?;
    let noted = wait_for("a mark", LIMIT, || {
        let text = fs::read_to_string(journal)?;
        let journal: Value = serde_json::from_str(&text)?;
        ensure!(journal["done_bytes"].as_u64() > Some(0), "{journal}");
        Ok(journal)
    });
    let noted = noted.with_context(|| service.log())?;
    service.signal(signal);
    let status = service.wait(LIMIT)?;
    let log = service.log();
    if signal == Signal::SIGINT {
        ensure!(log.contains("the same command goes on"), "{log}");
        let text = fs::read_to_string(journal)?;
        return Ok((serde_json::from_str(&text)?, status.code()));
    }
    Ok((noted, status.code()))
}

#[test]
fn what_has_changed_in_between_is_not_gone_on_with() -> Result<()> {
    let cluster = small()?;
    let directory = cluster.path();
    let path = directory.join("noise.img");
    noise(&path, 600)?;
    let import = [text(&path), "noise", "--replicas", "1"];
    let journal = directory.join("noise.img.ashlar-import");

    // Interrupted by Ctrl-C it notes how far it came, and leaves the volume detached.
    let (noted, code) = interrupt(&cluster, "import", &import, &journal, Signal::SIGINT)?;
    ensure!(code == Some(130), "exit code {code:?}");
    let shown = cluster.json(["volume", "show", "noise"])?;
    ensure!(shown["attached_by"].is_null(), "{shown}");

    // The source is another one now, openly or with its old time of change.
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    let modified = fs::metadata(&path)?.modified()?;
    file.write_all_at(b"changed", 5)?;
    let told = refused(&cluster, "import", &import)?;
    says(&told, "has changed")?;
    says(&told, "--restart")?;
    file.set_modified(modified)?;
    let told = refused(&cluster, "import", &import)?;
    says(&told, "is imported already has changed")?;
    ensure!(journal.exists(), "the journal is gone");

    // A volume of the same name that is another one.
    file.write_all_at(&0u64.to_le_bytes()[5..], 5)?;
    file.write_all_at(&random(MIB, 3)[8..16], 8)?;
    file.set_modified(modified)?;
    delete(&cluster, "noise")?;
    says(&refused(&cluster, "import", &import)?, "is gone")?;
    cluster.create_volume("noise", "600MiB", 1)?;
    says(&refused(&cluster, "import", &import)?, "another volume")?;
    delete(&cluster, "noise")?;
    let again = [&import[..], &["--restart"]].concat();
    let told = transfer(&cluster, "import", &again)?;
    ensure!(told["resumed_at_bytes"] == 0, "{told}");
    ensure!(told["sha256"] == image::sha256(&path)?.as_str(), "{told}");
    ensure!(noted["done_bytes"].as_u64() > Some(0), "{noted}");
    exports_of_a_volume_that_changes(&cluster, &path)
}

fn exports_of_a_volume_that_changes(cluster: &Cluster, path: &Path) -> Result<()> {
    let out = cluster.path().join("out.img");
    let export = ["noise", text(&out)];
    let journal = cluster.path().join("out.img.ashlar-export");
    let kill = Signal::SIGKILL;

    // Attached by another in between, but not written to: it goes on.
    let (noted, _) = interrupt(cluster, "export", &export, &journal, kill)?;
    attach(cluster, &["-c", "h.pread(4096, 0)"])?;
    let told = transfer(cluster, "export", &export)?;
    ensure!(
        told["resumed_at_bytes"].as_u64() >= noted["done_bytes"].as_u64(),
        "{told}"
    );
    ensure!(told["sha256"] == image::sha256(path)?.as_str(), "{told}");
    identical(path, &out)?;
    fs::remove_file(&out)?;

    // Written to in what was exported: refused until it begins anew.
    interrupt(cluster, "export", &export, &journal, kill)?;
    attach(cluster, &["-c", "h.pwrite(b'x' * 4096, 4096); h.flush()"])?;
    let told = refused(cluster, "export", &export)?;
    says(&told, "was written to since")?;
    says(&told, "--restart")?;
    ensure!(!out.exists(), "it is there before it is whole");
    let again = [&export[..], &["--restart"]].concat();
    let told = transfer(cluster, "export", &again)?;
    ensure!(told["sha256"] == image::sha256(&out)?.as_str(), "{told}");
    ensure!(fs::read(&out)?[4096] == b'x', "the write is missing");
    fs::remove_file(&out)?;

    // The partial file was tampered with.
    interrupt(cluster, "export", &export, &journal, Signal::SIGINT)?;
    let partial = cluster.path().join("out.img.ashlar-partial");
    let file = fs::OpenOptions::new().write(true).open(&partial)?;
    file.write_all_at(b"tampered", MIB)?;
    says(
        &refused(cluster, "export", &export)?,
        "is not as it was left",
    )
}

/// Another client has the volume for a moment.
fn attach(cluster: &Cluster, commands: &[&str]) -> Result<()> {
    // A killed owner's volume is free once it has been silent for long enough.
    wait_for("the volume", Duration::from_secs(90), || {
        let nbdsh = Tool::new("nbdsh").args(["-u", &cluster.uri("noise")]);
        nbdsh.args(commands).check()
    })?;
    Ok(())
}
