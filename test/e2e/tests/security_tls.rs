//! Who is let in where certificates are asked for, and that nobody else does any harm.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Secured, Tool};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;

/// Writes blocks that say what they are, and reads them again.
fn write_and_read(cluster: &Secured, round: u8) -> Result<()> {
    let mut client = NbdClient::connect(cluster.nbd, "data")?;
    for block in 0..64_u8 {
        let bytes = vec![block ^ round; BLOCK];
        let offset = u64::from(block) * BLOCK as u64;
        let length = u32::try_from(BLOCK)?;
        ensure!(
            client.call(Command::WriteFua, offset, length, &bytes)? == 0,
            "write"
        );
    }
    for block in 0..64_u8 {
        let read = client.read(u64::from(block) * BLOCK as u64, BLOCK)?;
        ensure!(read == vec![block ^ round; BLOCK], "block {block} changed");
    }
    client.disconnect()
}

fn with_volume(ttl: &str) -> Result<Secured> {
    let cluster = Secured::start(ttl)?;
    cluster.json(&["volume", "create", "data", "--size", "16MiB"])?;
    write_and_read(&cluster, 1)?;
    Ok(cluster)
}

fn json_body(body: &str) -> [String; 4] {
    let header = "Content-Type: application/json".to_owned();
    [
        "-H".to_owned(),
        header,
        "--data".to_owned(),
        body.to_owned(),
    ]
}

fn post(body: &[String; 4]) -> Vec<&str> {
    body.iter().map(String::as_str).collect()
}

/// `openssl s_client` to a port; gives what it says.
fn s_client(port: u16, who: Option<&Path>, more: &[&str]) -> Result<String> {
    let at = format!("127.0.0.1:{port}");
    let tool = Tool::new("openssl").args(["s_client", "-connect", &at]);
    let tool = match who {
        Some(who) => {
            let tool = tool.arg("-cert").arg(who.join("cert.pem"));
            tool.arg("-key").arg(who.join("key.pem"))
        }
        None => tool,
    };
    // What is written makes it read on: a refusal in TLS 1.3 comes after the client's handshake.
    let tool = tool.args(more).args(["-ign_eof"]).stdin("hello\n");
    let finished = tool.limit(Duration::from_secs(30)).run()?;
    Ok(format!("{}{}", finished.stdout, finished.stderr))
}

fn is_logged(cluster: &mut Secured, service: &str, text: &str) -> Result<()> {
    wait_for("a line in the log", Duration::from_secs(10), || {
        let log = cluster.service(service).log();
        ensure!(
            log.contains(text),
            "{service} has not logged `{text}`:\n{log}"
        );
        Ok(())
    })
}

#[test]
fn certificates_are_renewed_while_everything_runs() -> Result<()> {
    let mut cluster = with_volume("12s")?;
    let started = Instant::now();
    let mut round = 2;
    while started.elapsed() < Duration::from_secs(30) {
        write_and_read(&cluster, round)?;
        round = round.wrapping_add(1);
        cluster.json(&["status"])?;
        std::thread::sleep(Duration::from_millis(500));
    }
    for service in ["store-0", "store-1", "store-2", "nbd"] {
        is_logged(&mut cluster, service, "certificate renewed")?;
        ensure!(cluster.service(service).is_running(), "{service} has ended");
    }
    // A store that starts anew has its certificate in its directory, and needs its token no more.
    let disk = cluster.path("store-0.disk").display().to_string();
    let (listen, api) = (format!("127.0.0.1:{}", cluster.stores[0]), cluster.api());
    cluster.service("store-0").stop(Duration::from_secs(60))?;
    let arguments = [
        "store",
        "--disk",
        &disk,
        "--listen",
        &listen,
        "--name",
        "store-0",
        "--conductor",
        &api,
    ];
    cluster.run("store-0", "store-0.identity", &arguments)?;
    wait_for("store-0", Duration::from_secs(60), || {
        let status = cluster.json(&["status"])?;
        ensure!(
            status["nodes_up"] == 3 && status["health"] == "healthy",
            "{status}"
        );
        Ok(())
    })?;
    write_and_read(&cluster, 255)
}

#[test]
fn the_api_lets_in_whom_it_knows_for_what_is_theirs() -> Result<()> {
    let mut cluster = with_volume("24h")?;
    let admin = cluster.path("admin");
    let listed = cluster.curl(Some(&admin), "/v1/volumes", &[])?.success()?;
    ensure!(listed.contains("data"), "{listed}");
    let healthy = cluster.curl(None, "/healthz", &[])?.success()?;
    ensure!(healthy == "ok\n", "{healthy}");

    let none = cluster.problem(None, "/v1/volumes", &[])?;
    ensure!(none == (401, "certificate-required".to_owned()), "{none:?}");
    is_logged(&mut cluster, "conductor", "code=\"certificate-required\"")?;

    // Each role its own: a store administers nothing, an administrator is no store, and no store speaks
    // for another one.
    let store = cluster.path("store-0.identity");
    let volume = json_body(r#"{"name":"v","size_bytes":1048576,"replicas":1,"ack":"all"}"#);
    let wrong = cluster.problem(Some(&store), "/v1/volumes", &post(&volume))?;
    ensure!(wrong == (403, "role-refused".to_owned()), "{wrong:?}");
    let register =
        json_body(r#"{"name":"store-1","address":"127.0.0.1:1","labels":{},"disks":[]}"#);
    let wrong = cluster.problem(Some(&admin), "/v1/nodes/register", &post(&register))?;
    ensure!(wrong == (403, "role-refused".to_owned()), "{wrong:?}");
    let other = cluster.problem(Some(&store), "/v1/nodes/register", &post(&register))?;
    ensure!(other == (403, "speaks-for-other".to_owned()), "{other:?}");

    // Of another authority, or too old: TLS ends it.
    cluster.init("foreign-ca")?;
    cluster.issue("foreign-ca", "client", "admin", "24h", "foreign")?;
    let foreign = cluster.curl(Some(&cluster.path("foreign")), "/v1/volumes", &[])?;
    ensure!(!foreign.status.success(), "{foreign:?}");
    cluster.issue("ca", "client", "late", "1s", "late")?;
    std::thread::sleep(Duration::from_millis(2500));
    let late = cluster.curl(Some(&cluster.path("late")), "/v1/volumes", &[])?;
    ensure!(!late.status.success(), "{late:?}");
    is_logged(
        &mut cluster,
        "conductor",
        "TLS refused: invalid peer certificate",
    )?;
    let told = cluster.ashlar("late", &["status"]).run()?;
    ensure!(told.stderr.contains("has expired"), "{told:?}");

    // Denied at once, on a new connection as well as on one that was open; and allowed again.
    cluster.issue("ca", "client", "eve", "24h", "eve")?;
    cluster.ashlar("eve", &["status"]).check()?;
    cluster
        .ashlar("admin", &["node", "deny", "eve", "--reason", "gone"])
        .check()?;
    let denied = cluster.ashlar("eve", &["status"]).run()?;
    ensure!(!denied.status.success(), "{denied:?}");
    let list = cluster.ashlar("admin", &["node", "denied"]).check()?;
    ensure!(list.contains("eve") && list.contains("gone"), "{list}");
    cluster.ashlar("admin", &["node", "allow", "eve"]).check()?;
    cluster.ashlar("eve", &["status"]).check()?;

    // An old TLS is not spoken.
    let old = s_client(cluster.api_port(), Some(&admin), &["-tls1_2"])?;
    ensure!(
        old.contains("protocol version") || old.contains("handshake failure"),
        "{old}"
    );
    write_and_read(&cluster, 2)
}

#[test]
fn a_join_token_is_good_once_and_for_a_while() -> Result<()> {
    let mut cluster = Secured::start("24h")?;
    let join = |cluster: &Secured, token: &Path, identity: &str| {
        let token = token.display().to_string();
        let listen = format!("127.0.0.1:{}", ashlar_e2e::cluster::free_port()?);
        let api = cluster.api();
        let arguments = ["nbd", "--conductor", &api, "--listen", &listen];
        let tool = cluster.ashlar(identity, &arguments);
        tool.args(["--join-token-file", &token])
            .limit(Duration::from_secs(30))
            .run()
    };
    // The file of a token that a store has used.
    let used = cluster.path("store-0.token");
    let replayed = join(&cluster, &used, "thief")?;
    ensure!(
        replayed.stderr.contains("was used by node `store-0`"),
        "{replayed:?}"
    );
    let expired = cluster.token("front-end", "1s", "expired.token")?;
    std::thread::sleep(Duration::from_millis(1500));
    let late = join(&cluster, &expired, "late")?;
    ensure!(late.stderr.contains("has expired"), "{late:?}");
    let revoked = cluster.token("front-end", "1h", "revoked.token")?;
    let id = std::fs::read_to_string(&revoked)?;
    let id = id.split('.').nth(1).context("no id")?.to_owned();
    cluster
        .ashlar("admin", &["node", "token", "revoke", &id])
        .check()?;
    let revoked = join(&cluster, &revoked, "revoked")?;
    ensure!(revoked.stderr.contains("is not known"), "{revoked:?}");
    // A token of another cluster: its node does not even tell it to this conductor.
    let own = std::fs::read_to_string(&used)?;
    let (rest, fingerprint) = own.trim().rsplit_once('.').context("no token")?;
    let other = fingerprint
        .replace(&fingerprint[..1], "0")
        .replace(&fingerprint[1..2], "1");
    let foreign = cluster.path("foreign.token");
    std::fs::write(&foreign, format!("{rest}.{other}"))?;
    let api = cluster.api();
    let foreign = foreign.display().to_string();
    let line = [
        "nbd",
        "--conductor",
        &api,
        "--listen",
        "127.0.0.1:0",
        "--join-token-file",
        &foreign,
    ];
    cluster.run("foreign", "foreign.identity", &line)?;
    is_logged(&mut cluster, "foreign", "UnknownIssuer")?;
    for code in [
        "join-token-used",
        "join-token-expired",
        "join-token-unknown",
    ] {
        is_logged(&mut cluster, "conductor", code)?;
    }
    let secret = own.split('.').nth(2).context("no secret")?;
    let log = cluster.service("conductor").log();
    ensure!(!log.contains(secret), "a secret is in the log");
    let tokens = cluster
        .ashlar("admin", &["node", "token", "list", "--json"])
        .check()?;
    ensure!(
        tokens.contains("store-0") && !tokens.contains(secret),
        "{tokens}"
    );
    let meta = std::fs::read_dir(cluster.path("meta"))?;
    for file in meta {
        let bytes = std::fs::read(file?.path())?;
        let secret = secret.as_bytes();
        ensure!(
            !bytes.windows(secret.len()).any(|some| some == secret),
            "a secret is kept"
        );
    }
    Ok(())
}

#[test]
fn a_store_speaks_with_owners_alone() -> Result<()> {
    let mut cluster = with_volume("24h")?;
    let port = cluster.stores[0];
    let none = s_client(port, None, &[])?;
    ensure!(none.contains("certificate required"), "{none}");
    let admin = s_client(port, Some(&cluster.path("admin")), &[])?;
    ensure!(admin.contains("access denied"), "{admin}");
    cluster.init("foreign-ca")?;
    cluster.issue("foreign-ca", "front-end", "nbd", "24h", "foreign")?;
    let foreign = s_client(port, Some(&cluster.path("foreign")), &[])?;
    ensure!(foreign.contains("alert"), "{foreign}");
    cluster.issue("ca", "front-end", "late", "1s", "late")?;
    std::thread::sleep(Duration::from_millis(2500));
    let late = s_client(port, Some(&cluster.path("late")), &[])?;
    ensure!(late.contains("certificate expired"), "{late}");
    let old = s_client(port, Some(&cluster.path("nbd.identity")), &["-tls1_2"])?;
    ensure!(old.contains("alert"), "{old}");
    is_logged(&mut cluster, "store-0", "connection refused")?;
    // One that is denied is let in by no store any more, a moment later.
    cluster.issue("ca", "front-end", "eve", "24h", "eve")?;
    cluster.ashlar("admin", &["node", "deny", "eve"]).check()?;
    wait_for("the store to hear of it", Duration::from_secs(20), || {
        let eve = s_client(port, Some(&cluster.path("eve")), &[])?;
        ensure!(eve.contains("certificate revoked"), "{eve}");
        Ok(())
    })?;
    write_and_read(&cluster, 2)
}

/// A front end says of itself what it likes; what it has shown is what it loses its volumes by. Its clients are
/// refused from the answer on, and so is it, on the connections that it has.
#[test]
fn a_denied_front_end_loses_what_it_has_attached() -> Result<()> {
    let cluster = with_volume("24h")?;
    let mut client = NbdClient::connect(cluster.nbd, "data")?;
    let length = u32::try_from(BLOCK)?;
    let mut write = |byte: u8| client.call(Command::WriteFua, 0, length, &[byte; BLOCK]);
    ensure!(write(3)? == 0, "write");
    // It has joined by the name of its host.
    let tokens = cluster.json(&["node", "token", "list"])?;
    let tokens = tokens.as_array().context("no list")?.iter();
    let mut used = tokens.filter(|token| token["role"] == "front-end");
    let its = used.find(|token| token["used_by"] != "iscsi");
    let node = its.and_then(|token| token["used_by"].as_str());
    let node = node.context("the front end has a token")?;
    let denied = cluster.json(&["node", "deny", node, "--reason", "it is stolen"])?;
    ensure!(denied["taken"] == serde_json::json!(["data"]), "{denied}");
    ensure!(denied["unfenced"] == serde_json::json!([]), "{denied}");
    ensure!(!matches!(write(4), Ok(0)), "a write was acknowledged");
    let volume = cluster.json(&["volume", "show", "data"])?;
    ensure!(volume["attached_by"].is_null(), "{volume}");
    let again = NbdClient::connect(cluster.nbd, "data");
    ensure!(again.is_err(), "a denied front end attaches again");
    cluster.json(&["node", "allow", node])?;
    wait_for(
        "the front end to be let in",
        Duration::from_secs(60),
        || {
            let mut client = NbdClient::connect(cluster.nbd, "data")?;
            ensure!(
                client.read(0, BLOCK)? == [3; BLOCK],
                "what was refused is there"
            );
            client.disconnect()
        },
    )?;
    write_and_read(&cluster, 5)
}

/// Sends bytes that are nothing, and whatever else comes to mind; gives nothing back.
fn molest(port: u16, seed: u64) -> Result<()> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let start: &[u8] = match seed % 5 {
        0 => b"GET /v1/volumes HTTP/1.1\r\nHost: a\r\n\r\n",
        // A record of TLS that claims more than any has.
        1 => b"\x16\x03\x01\xff\xff",
        // A handshake message of 16 MiB in sound records.
        2 => b"\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03",
        3 => b"ASHL\x01\x00",
        _ => b"",
    };
    let _ = stream.write_all(start);
    for _ in 0..32 {
        let bytes: Vec<u8> = (0..1024).flat_map(|_| random().to_le_bytes()).collect();
        if stream.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = stream.read(&mut [0; 64]);
    Ok(())
}

#[test]
fn garbage_harms_nobody() -> Result<()> {
    let mut cluster = with_volume("24h")?;
    let listeners = [
        ("conductor", cluster.api_port()),
        ("store-0", cluster.stores[0]),
        ("nbd", cluster.nbd),
        ("iscsi", cluster.iscsi),
    ];
    for (service, port) in listeners {
        let before = cluster.service(service).resident_bytes()?;
        for seed in 0..100 {
            molest(port, seed)?;
        }
        // Connections that say nothing are held open meanwhile.
        let silent: Vec<TcpStream> = (0..50)
            .map(|_| TcpStream::connect(("127.0.0.1", port)))
            .collect::<Result<_, _>>()?;
        write_and_read(&cluster, 3)?;
        cluster.json(&["status"])?;
        let after = cluster.service(service).resident_bytes()?;
        ensure!(
            after < before + (96 << 20),
            "{service} grew from {before} to {after} bytes"
        );
        drop(silent);
        ensure!(cluster.service(service).is_running(), "{service} has ended");
        let log = cluster.service(service).log();
        ensure!(!log.contains("panicked"), "{service}:\n{log}");
    }
    is_logged(&mut cluster, "conductor", "TLS refused")?;
    is_logged(&mut cluster, "store-0", "connection refused")?;
    write_and_read(&cluster, 4)
}

#[test]
fn what_would_let_everybody_in_does_not_start() -> Result<()> {
    let open =
        Tool::new(ashlar_e2e::binary::ashlar()).args(["conductor", "--data", "/nonexistent"]);
    let open = open
        .args(["--listen", "0.0.0.0:0"])
        .limit(Duration::from_secs(20));
    let refused = open.env("ASHLAR_INSECURE", "0").run()?;
    ensure!(!refused.status.success(), "{refused:?}");
    ensure!(
        refused.stderr.contains("would let everybody in"),
        "{refused:?}"
    );
    Ok(())
}
