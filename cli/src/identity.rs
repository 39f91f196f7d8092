//! Who this process is to the others of its cluster: loaded or got with a join token, shown to conductors
//! and on data connections, and kept good while it runs.
//!
//! A process has one identity. It is set before any reactor starts: [`secure`] gives it to each.

mod enrol;
mod keeper;
mod own;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use anyhow::{Context, bail};
use ashlar_identity::{
    Admission, Authority, Credentials, Denied, IdentityDir, Presented, client_config, server_config,
};
use ashlar_proto::api::NodeRole;
use ashlar_proto::{Address, ClusterId};
use ashlar_reactor::Reactor;
use ashlar_reactor::link::{KnowsPeers, LinkSecurity};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Handle;

use crate::args::IdentityArgs;
use ashlar_api_client::identify;

pub use own::conduct;

/// How the links of this process are secured, if they are.
static LINKS: OnceLock<LinkSecurity> = OnceLock::new();

/// An identity that was loaded.
#[derive(Clone, Debug)]
struct Known {
    dir: IdentityDir,
    credentials: Credentials,
    authority_pem: String,
    cluster: ClusterId,
    denied: Denied,
}

impl Known {
    /// The one in a directory; `None` where there is none yet.
    fn load(dir: &IdentityDir) -> anyhow::Result<Option<Self>> {
        let Some(authority_pem) = dir.authority_pem()? else {
            return Ok(None);
        };
        let Some((certificate, key)) = dir.certificate_and_key()? else {
            return Ok(None);
        };
        let at = || format!("--identity-dir {}", dir.path().display());
        let credentials = Credentials::load(&certificate, &key, &authority_pem);
        let credentials = credentials.with_context(at)?;
        let cluster = credentials.presented().identity.cluster;
        Ok(Some(Self {
            dir: dir.clone(),
            credentials,
            authority_pem,
            cluster,
            denied: Denied::nobody(),
        }))
    }

    fn is_expired(&self) -> bool {
        self.credentials.presented().not_after <= SystemTime::now()
    }

    fn admission(&self, roles: &[NodeRole]) -> Admission {
        Admission {
            cluster: Some(self.cluster),
            roles: roles.to_vec(),
            denied: self.denied.clone(),
        }
    }

    /// Shows it to conductors, and on data connections from now on.
    fn show(&self, also_loopback: bool) -> anyhow::Result<()> {
        let shown = Some(&self.credentials);
        let conductors = self.admission(&[NodeRole::Conductor]);
        identify(client_config(shown, &self.authority_pem, conductors)?);
        let stores = self.admission(&[NodeRole::Store]);
        let owners = self.admission(&[NodeRole::Store, NodeRole::FrontEnd]);
        let security = LinkSecurity {
            server: server_config(&self.credentials, &self.authority_pem, owners, true)?,
            client: Arc::new(client_config(shown, &self.authority_pem, stores)?),
            peers: Arc::new(Names(self.denied.clone())),
            also_loopback,
        };
        // It is set once: a process has one identity.
        let _ = LINKS.set(security);
        Ok(())
    }
}

/// Knows nodes by the names in their certificates, and who is denied.
struct Names(Denied);

impl KnowsPeers for Names {
    fn is_of(&self, certificate: &[u8], node: &str) -> bool {
        Presented::read(certificate).is_ok_and(|presented| presented.identity.name == node)
    }

    fn changes(&self) -> u64 {
        self.0.changes()
    }

    fn is_let_in(&self, certificate: &[u8]) -> bool {
        Presented::read(certificate).is_ok_and(|presented| !self.0.denies(&presented))
    }
}

/// Secures the links of a reactor as the identity of this process has it, if it has one.
pub fn secure(reactor: &Reactor) {
    if let Some(security) = LINKS.get() {
        reactor.secure_links(security.clone());
    }
}

/// For a command that ends soon: shows the identity, if one is given.
///
/// # Errors
/// It cannot be read, or has expired.
pub fn present(args: &IdentityArgs) -> anyhow::Result<()> {
    if let Some(dir) = &args.identity_dir {
        let dir = IdentityDir::at(dir);
        if let Some(known) = Known::load(&dir)? {
            if known.is_expired() {
                bail!(
                    "the certificate in {} has expired: get another with `ashlar cluster issue` or a \
                     join token",
                    dir.path().display()
                );
            }
            return known.show(args.tls_loopback);
        }
        return match dir.authority_pem()? {
            Some(authority) => trust(&authority),
            None => bail!("there is no identity in {}", dir.path().display()),
        };
    }
    trust_given(args)
}

/// Trusts the conductors of the authority that --ca names, and shows nothing.
fn trust_given(args: &IdentityArgs) -> anyhow::Result<()> {
    let Some(path) = &args.ca else {
        return Ok(());
    };
    let pem = std::fs::read_to_string(path).with_context(|| format!("--ca {}", path.display()))?;
    trust(&pem).with_context(|| format!("--ca {}", path.display()))
}

fn trust(authority_pem: &str) -> anyhow::Result<()> {
    let conductors = Admission {
        cluster: cluster_of(authority_pem),
        roles: vec![NodeRole::Conductor],
        denied: Denied::nobody(),
    };
    identify(client_config(None, authority_pem, conductors)?);
    Ok(())
}

fn cluster_of(authority_pem: &str) -> Option<ClusterId> {
    let der = CertificateDer::from_pem_slice(authority_pem.as_bytes()).ok()?;
    Authority::cluster_of(&der)
}

/// For a role that runs on: loads the identity or gets one with the join token, shows it, and keeps it
/// good on `runtime`. Without --identity-dir it has none.
///
/// # Errors
/// It cannot be read; there is none and no token; the conductor refuses the token.
pub fn join(
    args: &IdentityArgs,
    name: &str,
    conductor: &str,
    runtime: &Handle,
) -> anyhow::Result<()> {
    let Some(dir) = &args.identity_dir else {
        if args.join_token_file.is_some() {
            bail!("--join-token-file needs --identity-dir, to keep what it gets");
        }
        return trust_given(args);
    };
    let dir = IdentityDir::at(dir);
    let known = match Known::load(&dir)? {
        Some(known) if !known.is_expired() => known,
        stale => {
            let why = match stale {
                Some(_) => "its certificate has expired",
                None => "there is no certificate yet",
            };
            let file = args.join_token_file.as_deref();
            let file = file.with_context(|| {
                format!("{}: {why}: give --join-token-file", dir.path().display())
            })?;
            runtime.block_on(enrol::enrol(&dir, file, name, conductor))?;
            let known = Known::load(&dir)?;
            known.context("the identity that was just kept is gone")?
        }
    };
    let presented = known.credentials.presented();
    tracing::info!(identity = %presented.identity, serial = presented.serial, "identity");
    known.show(args.tls_loopback)?;
    keeper::start(known, conductor.to_owned(), runtime);
    Ok(())
}

/// Refuses to listen where others reach it, while everybody would be let in.
///
/// # Errors
/// Neither --identity-dir nor --insecure was given.
pub fn refuse_open(args: &IdentityArgs, what: &str, address: &Address) -> anyhow::Result<()> {
    if address.is_loopback() || args.identity_dir.is_some() {
        return Ok(());
    }
    if args.insecure {
        tracing::warn!(%address, "{what} lets everybody in who reaches it, unencrypted");
        return Ok(());
    }
    bail!(
        "{what} at {address} would let everybody in who reaches it: give --identity-dir (see `ashlar \
         cluster init`), or --insecure where nobody else does"
    )
}

/// A token from its file: never an argument, which every process of the machine can read.
fn read_token(path: &Path) -> anyhow::Result<ashlar_identity::TokenText> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("--join-token-file {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    let token = line.parse();
    token.with_context(|| format!("--join-token-file {}", path.display()))
}
