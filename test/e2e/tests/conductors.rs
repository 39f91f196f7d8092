//! Three conductors on three members of etcd: whichever of them is killed or hangs, the API answers again
//! within seconds, IO does not notice, nothing is done twice or lost, and a conductor that comes to life
//! again changes nothing.
//!
//! `ASHLAR_CONDUCTOR_ROUNDS=50` runs so many faults instead of one of each kind.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::Tool;
use ashlar_e2e::conductors::{Deployment, LIMIT, MEMBERS};
use ashlar_e2e::ledger::{Delays, Ledger};
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::process::{Service, wait_for};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the API may be away. A quiet machine takes below three seconds; this one may be busy.
const AWAY_MAX: Duration = Duration::from_secs(20);
/// How long a request of the volume may take meanwhile.
const IO_MAX: Duration = Duration::from_secs(3);
/// How long the load goes on after the API has answered.
const GO_ON: Duration = Duration::from_secs(1);
/// One piece of load.
const SPELL: Duration = Duration::from_millis(500);

/// What is done to whoever leads.
#[derive(Clone, Copy, Debug)]
struct Fault {
    conductor: bool,
    etcd: bool,
    kills: bool,
}

impl Fault {
    const fn new(conductor: bool, etcd: bool, kills: bool) -> Self {
        Self {
            conductor,
            etcd,
            kills,
        }
    }

    fn name(self) -> String {
        let whom = match (self.conductor, self.etcd) {
            (true, true) => "both",
            (true, false) => "conductor",
            _ => "etcd",
        };
        format!("{whom} {}", if self.kills { "killed" } else { "stopped" })
    }

    /// Does it; gives what undoes it.
    fn strike(self, it: &mut Deployment) -> Result<(Option<usize>, Option<usize>)> {
        let conductor = self.conductor.then(|| it.leader()).transpose()?;
        let etcd = self.etcd.then(|| it.etcd_leader()).transpose()?;
        if let Some(index) = conductor {
            self.hit(&mut it.conductors[index]);
        }
        if let Some(index) = etcd {
            self.hit(&mut it.etcd[index]);
        }
        Ok((conductor, etcd))
    }

    fn hit(self, service: &mut Service) {
        if self.kills {
            service.kill();
        } else {
            service.pause();
        }
    }

    fn mend(self, it: &mut Deployment, struck: (Option<usize>, Option<usize>)) -> Result<()> {
        let (conductor, etcd) = struck;
        if let Some(index) = etcd {
            if self.kills {
                it.etcd[index] = it.start_etcd(index)?;
            } else {
                it.etcd[index].resume();
            }
        }
        if let Some(index) = conductor {
            if self.kills {
                it.conductors[index] = it.start_conductor(index)?;
            } else {
                it.conductors[index].resume();
            }
        }
        Ok(())
    }
}

/// Every kind.
const FAULTS: [Fault; 6] = [
    Fault::new(true, false, true),
    Fault::new(true, false, false),
    Fault::new(false, true, true),
    Fault::new(false, true, false),
    Fault::new(true, true, true),
    Fault::new(true, true, false),
];

/// How long the API was away.
#[derive(Clone, Copy, Debug, Default)]
struct Away {
    read: Duration,
    write: Duration,
}

impl Away {
    fn at_most(self, other: Self) -> Self {
        Self {
            read: self.read.max(other.read),
            write: self.write.max(other.write),
        }
    }
}

/// Reads, then changes something, each again until it is answered.
fn away(it: &Deployment, round: usize) -> Result<Away> {
    let began = Instant::now();
    wait_for("an answer", LIMIT, || it.json(&["volume", "list"]))?;
    let read = began.elapsed();
    let client = format!("nobody-{round}");
    wait_for("a change", LIMIT, || it.json(&["client", "deny", &client]))?;
    let write = began.elapsed();
    // It is there once. The conductor that is asked may follow, a moment behind.
    wait_for("what was changed", LIMIT, || {
        let denied = it.json(&["client", "list"])?;
        let list = denied.as_array().context("no list")?;
        let count = list.iter().filter(|it| it["client"] == *client).count();
        ensure!(count == 1, "{client}: {denied}");
        Ok(())
    })?;
    Ok(Away { read, write })
}

fn strike_and_mend(it: &mut Deployment, fault: Fault, number: usize) -> Result<Away> {
    std::thread::sleep(SPELL);
    let struck = fault.strike(it)?;
    let away = away(it, number)?;
    std::thread::sleep(GO_ON);
    fault.mend(it, struck)?;
    Ok(away)
}

/// One fault under load.
fn round(it: &mut Deployment, ledger: &mut Ledger, fault: Fault, number: usize) -> Result<Away> {
    let mut client = NbdClient::connect(it.nbd_port, "v")?;
    ledger.delays = Delays::default();
    let over = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| -> Result<Away> {
        let load = scope.spawn(|| -> Result<bool> {
            while !over.load(Ordering::Relaxed) {
                if !ledger.run(&mut client, 8, SPELL)? {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        let away = strike_and_mend(it, fault, number);
        over.store(true, Ordering::Relaxed);
        let went_on = load
            .join()
            .map_err(|_| anyhow::anyhow!("the load ended"))??;
        ensure!(went_on, "{}: the volume was gone", fault.name());
        away
    })?;
    let (name, delays) = (fault.name(), ledger.delays);
    eprintln!(
        "round {number}, {name}: reads away {:?}, changes away {:?}; IO {delays}",
        measured.read, measured.write
    );
    ensure!(measured.write < AWAY_MAX, "{name}: {measured:?}");
    ensure!(delays.longest < IO_MAX, "{name}: {delays}");
    ledger.verify(&mut client)?;
    client.disconnect()?;
    Ok(measured)
}

fn rounds() -> usize {
    let asked = std::env::var("ASHLAR_CONDUCTOR_ROUNDS");
    asked
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(FAULTS.len())
}

#[test]
fn conductors_and_members_of_etcd_may_die_and_hang() -> Result<()> {
    let mut it = Deployment::start()?;
    it.json(&["volume", "create", "v", "--size", "64MiB"])?;
    let mut ledger = Ledger::new(0, 64 * 256, 31);
    let mut most = Away::default();
    for number in 0..rounds() {
        let fault = FAULTS[number % FAULTS.len()];
        most = most.at_most(round(&mut it, &mut ledger, fault, number)?);
    }
    eprintln!("{} rounds; at most: {most:?}; {:?}", rounds(), ledger.tally);
    // Nothing of all that was lost.
    let denied = it.json(&["client", "list"])?;
    let count = denied.as_array().context("no list")?.len();
    ensure!(count == rounds(), "{denied}");
    it.await_stores()
}

/// Once the conductor that is asked has heard who leads.
fn post(it: &Deployment, index: usize, path: &str, body: &Value) -> Result<(u16, Value)> {
    let body = body.to_string();
    let json = "Content-Type: application/json";
    wait_for("a leader that is known", LIMIT, || {
        let answer = it.curl(index, &["-L", "-d", &body, "-H", json], path)?;
        ensure!(answer.1["code"] != "no-leader", "{answer:?}");
        Ok(answer)
    })
}

/// A client whose answer was lost asks again, at another conductor and after another has taken the lead.
#[test]
fn requests_that_are_sent_again_do_nothing_twice() -> Result<()> {
    let mut it = Deployment::start()?;
    let create = json!({"name": "once", "size_bytes": 16 << 20, "replicas": 3});
    let leader = it.leader()?;
    let (status, made) = post(&it, leader, "/v1/volumes", &create)?;
    ensure!(status == 201 || status == 200, "{status}: {made}");
    let (_, first) = post(&it, leader, "/v1/clients/deny", &json!({"client": "x"}))?;
    it.conductors[leader].kill();
    let next = it.leader()?;
    ensure!(next != leader, "a dead conductor leads");
    for index in (0..MEMBERS).filter(|index| *index != leader) {
        let (status, problem) = post(&it, index, "/v1/volumes", &create)?;
        ensure!(status == 409, "{status}: {problem}");
        ensure!(problem["code"] == "volume-exists", "{problem}");
        let (status, again) = post(&it, index, "/v1/clients/deny", &json!({"client": "x"}))?;
        ensure!(
            status == 200 && again["denied"] == first["denied"],
            "{again}"
        );
    }
    let volumes = it.json(&["volume", "list"])?;
    let list = volumes.as_array().context("no list")?;
    ensure!(list.len() == 1 && list[0]["id"] == made["id"], "{volumes}");
    let denied = it.json(&["client", "list"])?;
    ensure!(
        denied.as_array().is_some_and(|it| it.len() == 1),
        "{denied}"
    );
    it.json(&["volume", "delete", "once", "--force"])?;
    let (status, problem) = it.curl(next, &["-X", "DELETE"], "/v1/volumes/once")?;
    ensure!(status == 404, "{status}: {problem}");
    Ok(())
}

#[test]
fn a_conductor_that_hung_while_another_took_over_changes_nothing() -> Result<()> {
    let mut it = Deployment::start()?;
    let zombie = it.leader()?;
    it.conductors[zombie].pause();
    // A request that it has not looked at, and will when it goes on.
    let url = format!("{}/v1/volumes", it.url(zombie));
    let pending = std::thread::spawn(move || {
        let body = r#"{"name":"zombie","size_bytes":16777216,"replicas":3}"#;
        let tool = Tool::new("curl").args(["-s", "--max-time", "50", "-d", body]);
        let tool = tool.args(["-H", "Content-Type: application/json", "-o", "/dev/null"]);
        tool.args(["-w", "%{http_code}"])
            .arg(url)
            .limit(LIMIT)
            .check()
    });
    let next = it.leader()?;
    ensure!(next != zombie, "a hung conductor leads");
    it.json(&["volume", "create", "after", "--size", "16MiB"])?;
    it.conductors[zombie].resume();
    let answer = pending
        .join()
        .map_err(|_| anyhow::anyhow!("curl ended"))??;
    ensure!(
        answer == "307" || answer == "503",
        "the zombie answered {answer}"
    );
    ensure!(it.leader()? == next, "the lead went back");
    // All come to know the same; one that follows, and the zombie before all, is a moment behind.
    for index in 0..MEMBERS {
        let names = wait_for("the volume that was made", LIMIT, || {
            let (status, listed) = it.curl(index, &[], "/v1/volumes")?;
            let items = listed["items"].as_array();
            let items = items.with_context(|| format!("conductor {index}: {status}: {listed}"))?;
            ensure!(!items.is_empty(), "conductor {index} lists none");
            Ok(items
                .iter()
                .map(|it| it["name"].clone())
                .collect::<Vec<_>>())
        })?;
        // Not for a moment, either.
        ensure!(names == ["after"], "conductor {index}: {names:?}");
    }
    Ok(())
}
