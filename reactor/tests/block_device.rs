//! A block device, as a loop device over a file: held exclusively, flushed, discarded.
//!
//! Needs the right to make loop devices; where that is missing the tests say so and pass.

use ashlar_reactor::{DiskError, DiskOptions, Engine, RuntimeOptions, probe_engine, run};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

const BYTES: u64 = 8 << 20;

struct Loop {
    device: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn new() -> Option<Self> {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("file");
        File::set_len(file.as_file(), BYTES + 1000).expect("size");
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file.path())
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let text = String::from_utf8(output.stdout).expect("a path");
                Some(Self {
                    device: PathBuf::from(text.trim()),
                    _file: file,
                })
            }
            _ => {
                eprintln!("skipped: losetup makes no loop device here");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.device)
            .status();
    }
}

fn on_each_engine(test: impl AsyncFn(ashlar_reactor::Reactor, PathBuf)) {
    for engine in [Engine::Aio, probe_engine(None).0] {
        let Some(device) = Loop::new() else { return };
        let path = device.device.clone();
        run(RuntimeOptions::new(engine), |reactor| test(reactor, path)).expect("starts");
    }
}

#[test]
fn block_device_works() {
    on_each_engine(async |reactor, path| {
        let disk = reactor
            .open_disk(DiskOptions::new(&path))
            .await
            .expect("opens");
        let geometry = disk.geometry();
        assert!(geometry.is_block_device);
        assert_eq!(geometry.size_bytes, BYTES);
        assert!(geometry.volatile_cache, "a loop device says write back");
        assert!(geometry.supports_discard);
        let mut buffer = reactor.buffer(8192);
        buffer.fill(7);
        let data = buffer.freeze();
        disk.write(4096, vec![data.clone()]).await.expect("writes");
        disk.flush().await.expect("flushes");
        let (back, result) = disk.read(4096, reactor.buffer(8192)).await;
        result.expect("reads");
        assert!(*back == *data);
        disk.discard(4096, 8192).await.expect("discards");
        // A loop device punches a hole into its file.
        let (back, result) = disk.read(4096, reactor.buffer(8192)).await;
        result.expect("reads");
        assert!(back.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn held_block_device_is_in_use() {
    on_each_engine(async |reactor, path| {
        let held = reactor
            .open_disk(DiskOptions::new(&path))
            .await
            .expect("opens");
        let again = reactor.open_disk(DiskOptions::new(&path)).await;
        assert_eq!(again.unwrap_err(), DiskError::InUse { path: path.clone() });
        drop(held);
        reactor
            .open_disk(DiskOptions::new(&path))
            .await
            .expect("opens again");
    });
}
