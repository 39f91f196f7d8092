//! From arguments to a way to etcd: reads certificates and the password.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use ashlar_conductor::EtcdOptions;

use crate::args::EtcdArgs;

/// The variable that may hold the password.
const VARIABLE: &str = "ASHLAR_ETCD_PASSWORD";

/// What the arguments say.
///
/// # Errors
/// A file that cannot be read, or a user without a password.
pub fn options(args: &EtcdArgs) -> anyhow::Result<EtcdOptions> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let ca_pem = args.etcd_ca.as_deref().map(read).transpose()?;
    let identity_pem = match (&args.etcd_cert, &args.etcd_key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    let user = match &args.etcd_user {
        Some(user) => Some((user.clone(), password(args.etcd_password_file.as_deref())?)),
        None => None,
    };
    let is_private = |endpoint: &String| endpoint.starts_with("https://") || is_loopback(endpoint);
    ensure!(
        user.is_none() || args.etcd.iter().all(is_private),
        "--etcd-user would send the password unencrypted: give https:// to --etcd"
    );
    Ok(EtcdOptions {
        endpoints: args.etcd.clone(),
        ca_pem,
        identity_pem,
        user,
        root: args.etcd_prefix.clone(),
        lease_seconds: Some(args.etcd_lease),
    })
}

fn is_loopback(endpoint: &str) -> bool {
    let Ok(uri) = endpoint.parse::<http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn password(file: Option<&Path>) -> anyhow::Result<String> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("--etcd-password-file {}", path.display()))?,
        None => std::env::var(VARIABLE)
            .with_context(|| format!("--etcd-user needs --etcd-password-file or {VARIABLE}"))?,
    };
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "the password of etcd is empty");
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(more: &[&str]) -> EtcdArgs {
        let words = ["ashlar", "conductor"].iter().chain(more);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Conductor(args) => args.etcd,
            _ => panic!("it is a conductor"),
        }
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "geheim\nmore\n").unwrap();
        let path = file.path().to_str().unwrap();
        let more = [
            "--etcd",
            "https://a:2379,https://b:2379",
            "--etcd-user",
            "u",
        ];
        let more = [more.as_slice(), &["--etcd-password-file", path]].concat();
        let options = options(&args(&more)).unwrap();
        assert_eq!(options.endpoints, ["https://a:2379", "https://b:2379"]);
        assert_eq!(options.user, Some(("u".to_owned(), "geheim".to_owned())));
    }

    #[test]
    fn a_password_goes_unencrypted_over_loopback_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "geheim").unwrap();
        let path = file.path().to_str().unwrap();
        let with = |etcd| {
            let more = [
                "--etcd",
                etcd,
                "--etcd-user",
                "u",
                "--etcd-password-file",
                path,
            ];
            options(&args(&more))
        };
        assert!(with("http://127.0.0.1:2379").is_ok());
        assert!(with("http://10.0.0.1:2379").is_err());
        assert!(with("http://127.example.org:2379").is_err());
    }
}
