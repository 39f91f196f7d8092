//! The judge is judged first: the ledger passes an honest server and catches a dishonest one.

use anyhow::{Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::ledger::Ledger;
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Service, binary};
use std::fs;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn serve(file: &Path, port: u16) -> Result<(Service, NbdClient)> {
    let arguments = ["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "file"];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
    arguments.push(file.display().to_string());
    let log = file.with_extension("log");
    let service = Service::start("nbdkit", &log, Path::new("nbdkit"), arguments)?;
    let client = wait_for("nbdkit", LIMIT, || NbdClient::connect(port, ""))?;
    Ok((service, client))
}

#[test]
fn the_ledger_tells_lost_and_torn_writes_from_a_crash() -> Result<()> {
    let directory = tempfile::tempdir_in(binary::work_dir())?;
    let file = directory.path().join("image");
    let older = directory.path().join("older");
    fs::File::create(&file)?.set_len(8 << 20)?;
    let port = free_port()?;
    let mut ledger = Ledger::new(0, 1024, 1);

    // An honest server that is killed: what it was given is in the page cache.
    let (service, mut client) = serve(&file, port)?;
    let pid = service.pid();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        ashlar_e2e::process::kill_group(pid);
    });
    ensure!(
        !ledger.run(&mut client, 16, LIMIT)?,
        "the kill went unnoticed"
    );
    killer.join().expect("the killer does not panic");
    drop(service);
    let (service, mut client) = serve(&file, port)?;
    ledger.verify(&mut client)?;
    fs::copy(&file, &older)?;
    ensure!(
        ledger.run(&mut client, 16, Duration::from_millis(500))?,
        "the server went away"
    );
    ensure!(
        ledger.tally.flushes > 0 && ledger.tally.reads > 0,
        "{:?}",
        ledger.tally
    );
    drop(service);

    // A torn block.
    let good = fs::read(&file)?;
    let mut torn = good.clone();
    let block = torn
        .chunks(4096)
        .position(|block| block[2000] != 0)
        .expect("data was written");
    torn[block * 4096 + 2048..(block + 1) * 4096].fill(0x5a);
    fs::write(&file, &torn)?;
    let (service, mut client) = serve(&file, port)?;
    ensure!(
        ledger.clone().verify(&mut client).is_err(),
        "a torn block passed"
    );
    drop(service);

    // Everything since the copy is lost, though it was answered.
    fs::copy(&older, &file)?;
    let (service, mut client) = serve(&file, port)?;
    ensure!(
        ledger.clone().verify(&mut client).is_err(),
        "lost writes passed"
    );
    drop(service);

    fs::write(&file, &good)?;
    let (_service, mut client) = serve(&file, port)?;
    ledger.verify(&mut client)?;
    Ok(())
}
