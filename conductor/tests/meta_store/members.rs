//! Members of etcd on loopback, which end with the test.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ashlar_conductor::{EtcdOptions, EtcdStore, MetaStore};
use tempfile::TempDir;

/// How long a cluster may take to be ready.
const READY_MAX: Duration = Duration::from_secs(30);

/// A cluster of etcd.
pub struct Members {
    directory: TempDir,
    ports: Vec<(u16, u16)>,
    arguments: Vec<String>,
    running: Vec<Option<Child>>,
}

impl Members {
    /// So many of them, with these arguments beside their own.
    pub fn start(count: usize, arguments: &[&str]) -> Self {
        let mut held = Vec::new();
        let mut port = || {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            held.push(free);
            port
        };
        let ports = (0..count).map(|_| (port(), port())).collect();
        drop(held);
        let mut members = Self {
            directory: tempfile::tempdir().unwrap(),
            ports,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            running: (0..count).map(|_| None).collect(),
        };
        for index in 0..count {
            members.revive(index);
        }
        members
    }

    pub fn endpoint(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[index].0)
    }

    /// All members, as a conductor is told.
    pub fn options(&self) -> EtcdOptions {
        EtcdOptions {
            endpoints: (0..self.ports.len()).map(|i| self.endpoint(i)).collect(),
            ..EtcdOptions::default()
        }
    }

    /// Opens a store once the members serve. With `api` it stands for leader.
    pub async fn open(&self, api: Option<&str>) -> EtcdStore {
        let start = Instant::now();
        loop {
            match EtcdStore::open(&self.options(), api.map(str::to_owned)).await {
                Ok(store) => return store,
                Err(error) if start.elapsed() > READY_MAX => panic!("etcd: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Starts a member, for the first time or again.
    pub fn revive(&mut self, index: usize) {
        let peer = |i: usize| format!("http://127.0.0.1:{}", self.ports[i].1);
        let all: Vec<String> = (0..self.ports.len())
            .map(|i| format!("m{i}={}", peer(i)))
            .collect();
        let directory = self.directory.path().join(format!("m{index}"));
        let child = Command::new("etcd")
            .arg("--name")
            .arg(format!("m{index}"))
            .arg("--data-dir")
            .arg(&directory)
            .arg("--listen-client-urls")
            .arg(self.endpoint(index))
            .arg("--advertise-client-urls")
            .arg(self.endpoint(index))
            .arg("--listen-peer-urls")
            .arg(peer(index))
            .arg("--initial-advertise-peer-urls")
            .arg(peer(index))
            .arg("--initial-cluster")
            .arg(all.join(","))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(&directory))
            .spawn();
        let child = child.expect("etcd starts: scripts/setup installs the package etcd-server");
        self.running[index] = Some(child);
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.running[index].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs `etcdctl` with one of the members; gives what it prints.
    pub fn control(&self, index: usize, arguments: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(self.endpoint(index))
            .args(arguments)
            .output()
            .expect("etcdctl starts: scripts/setup installs the package etcd-client");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text
    }

    /// The member that leads the others.
    pub fn leader(&self) -> usize {
        let alive = (0..self.running.len()).filter(|i| self.running[*i].is_some());
        for index in alive.cycle().take(300) {
            let text = self.control(index, &["endpoint", "status", "--write-out=fields"]);
            let field = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name));
                line.and_then(|line| line.split(':').nth(1))
                    .map(|id| id.trim().to_owned())
            };
            if field("\"MemberID\"").is_some() && field("\"MemberID\"") == field("\"Leader\"") {
                return index;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the members elect nobody");
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for index in 0..self.running.len() {
            self.kill(index);
        }
    }
}

fn log(directory: &Path) -> Stdio {
    let path = directory.with_extension("log");
    std::fs::File::create(path).map_or_else(|_| Stdio::null(), Stdio::from)
}

/// Waits until a store leads; gives its term.
pub async fn elected(store: &EtcdStore) -> ashlar_conductor::meta::Term {
    use ashlar_conductor::meta::Leadership;
    let start = Instant::now();
    loop {
        if let Leadership::Leads { term } = store.leadership() {
            return term;
        }
        assert!(start.elapsed() < READY_MAX, "nobody is elected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
