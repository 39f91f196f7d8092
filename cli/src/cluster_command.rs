//! `ashlar cluster`: the authority of a cluster, and identities that are made where its key is.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use ashlar_identity::{Authority, CERTIFICATE_TTL, Identity, IdentityDir, Subject, TokenText};
use ashlar_proto::ClusterId;
use ashlar_proto::api::NodeRole;

use crate::args::{ClusterCommand, InitArgs, IssueArgs};
use crate::host;
use crate::output::{print_json, print_text};

/// The names under which every conductor is reached on its own machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Runs one of its commands.
pub fn run(command: &ClusterCommand, json: bool) -> anyhow::Result<()> {
    match command {
        ClusterCommand::Init(args) => init(args, json),
        ClusterCommand::Issue(args) => issue(args, json),
    }
}

fn init(args: &InitArgs, json: bool) -> anyhow::Result<()> {
    let cluster = match args.cluster_id {
        Some(cluster) => cluster,
        None => fresh_id()?,
    };
    let dir = IdentityDir::at(&args.dir);
    let (authority, key) = Authority::create(cluster, SystemTime::now())?;
    let mut hosts: Vec<String> = LOOPBACK.iter().map(|&host| host.to_owned()).collect();
    for host in args.san.iter().cloned().chain([host::name()]) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    let subject = Subject {
        identity: identity(cluster, NodeRole::Conductor, &args.name)?,
        hosts,
        ttl: CERTIFICATE_TTL,
    };
    let (node_key, certificate) = authority.issue(&subject, SystemTime::now())?;
    dir.keep_authority(&authority, &key)?;
    dir.keep_key(&node_key)?;
    dir.keep_certificate(&certificate, authority.certificate_pem())?;
    let dir = args.dir.display();
    if json {
        return print_json(&BTreeMap::from([
            ("cluster", cluster.to_string()),
            ("dir", dir.to_string()),
        ]));
    }
    print_text(&format!(
        "made the authority of cluster {cluster} in {dir}; next: `ashlar conductor --identity-dir {dir} \
         …`. For the first admin: `ashlar cluster issue --dir {dir} --role client --name NAME --out DIR`. \
         Whoever has {dir}/ca-key.pem can be anybody in the cluster"
    ))
}

fn issue(args: &IssueArgs, json: bool) -> anyhow::Result<()> {
    let authority = IdentityDir::at(&args.dir).authority()?;
    let authority = authority
        .with_context(|| format!("{} has no authority with its key", args.dir.display()))?;
    let subject = Subject {
        identity: identity(authority.cluster(), args.role, &args.name)?,
        hosts: args.san.clone(),
        ttl: args.ttl,
    };
    let (key, certificate) = authority.issue(&subject, SystemTime::now())?;
    let out = IdentityDir::at(&args.out);
    out.keep_key(&key)?;
    out.keep_certificate(&certificate, authority.certificate_pem())?;
    let (identity, out) = (subject.identity.to_string(), args.out.display());
    if json {
        return print_json(&BTreeMap::from([
            ("identity", identity),
            ("dir", out.to_string()),
        ]));
    }
    let life = humantime::format_duration(args.ttl);
    print_text(&format!("{identity} is in {out}, good for {life}"))
}

fn identity(cluster: ClusterId, role: NodeRole, name: &str) -> anyhow::Result<Identity> {
    ensure!(
        Identity::is_name(name),
        "`{name}` is no name: use 1 to 63 letters, digits and . _ -, beginning with a letter or digit"
    );
    Ok(Identity {
        cluster,
        role,
        name: name.to_owned(),
    })
}

/// An id that no other cluster has: as random as the id of a token, twice.
fn fresh_id() -> anyhow::Result<ClusterId> {
    let random = || TokenText::make(b"").map(|token| token.id);
    let digits = random().zip(random()).map(|(high, low)| high + &low);
    let digits = digits.context("the system gives no random numbers")?;
    Ok(digits.parse()?)
}
