//! What this process shows of itself to a conductor: a key or token, and the keys of volumes.
//!
//! They come from files, the environment, or the configuration file `ashlar/config.toml` below
//! `XDG_CONFIG_HOME` or `~/.config`; never from arguments, which every process of the machine can read.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context;
use ashlar_api_client::{ApiClient, ApiError, Token, VolumeKeys};
use ashlar_proto::api::Secret;
use serde::Deserialize;

use crate::args::CredentialArgs;

/// The variable that may hold a key or token.
const VARIABLE: &str = "ASHLAR_TOKEN";

/// What the configuration file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    token_file: Option<PathBuf>,
    volume_keys: Option<PathBuf>,
}

/// What is shown.
#[derive(Clone, Debug, Default)]
struct Credentials {
    token: Option<Token>,
    volume_keys: Option<VolumeKeys>,
}

/// Those of this process.
static OWN: OnceLock<Credentials> = OnceLock::new();

/// Looks for the credentials of this process, once.
///
/// # Errors
/// A file that cannot be read, or a configuration that says something else.
pub fn set(args: &CredentialArgs) -> anyhow::Result<()> {
    let path = configuration_path();
    let found = find(args, token_of_environment(), path.as_deref())?;
    // Who asks twice has been answered.
    let _ = OWN.set(found);
    Ok(())
}

/// A client of the API at `api` that shows the credentials of this process.
///
/// # Errors
/// [`ApiError::Address`].
pub fn client(api: &str) -> Result<ApiClient, ApiError> {
    let own = OWN.get().cloned().unwrap_or_default();
    Ok(ApiClient::new(api)?.showing(own.token, own.volume_keys))
}

/// The same with a token of its own.
///
/// # Errors
/// [`ApiError::Address`].
pub fn client_showing(api: &str, token: Token) -> Result<ApiClient, ApiError> {
    let own = OWN.get().cloned().unwrap_or_default();
    Ok(ApiClient::new(api)?.showing(Some(token), own.volume_keys))
}

fn token_of_environment() -> Option<Secret> {
    let text = std::env::var(VARIABLE).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| Secret::new(text))
}

fn configuration_path() -> Option<PathBuf> {
    let var = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    let base = var("XDG_CONFIG_HOME").or_else(|| Some(var("HOME")?.join(".config")));
    Some(base?.join("ashlar/config.toml"))
}

/// An argument comes before the environment, that before the configuration.
fn find(
    args: &CredentialArgs,
    environment: Option<Secret>,
    configuration: Option<&Path>,
) -> anyhow::Result<Credentials> {
    let configuration = configuration.map_or(Ok(Configuration::default()), configured)?;
    let from_file = |path: &PathBuf| -> anyhow::Result<Token> {
        std::fs::File::open(path).with_context(|| format!("token file {}", path.display()))?;
        Ok(Token::file(path.clone()))
    };
    let token = match (&args.token_file, environment, &configuration.token_file) {
        (Some(path), _, _) => Some(from_file(path)?),
        (None, Some(secret), _) => Some(Token::fixed(secret)),
        (None, None, Some(path)) => Some(from_file(path)?),
        (None, None, None) => None,
    };
    let keys = args.volume_keys.as_ref();
    let keys = keys.or(configuration.volume_keys.as_ref());
    if let Some(path) = keys {
        std::fs::File::open(path).with_context(|| format!("volume keys {}", path.display()))?;
    }
    let volume_keys = keys.cloned().map(VolumeKeys::file);
    Ok(Credentials { token, volume_keys })
}

/// What the file says; nothing if there is none.
fn configured(path: &Path) -> anyhow::Result<Configuration> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Configuration::default());
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    toml::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(found: &Credentials) -> Option<String> {
        let secret = found.token.as_ref()?.current()?;
        Some(secret.reveal().to_owned())
    }

    #[test]
    fn an_argument_comes_before_the_environment_and_that_before_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (one, other) = (file("one", "of-argument\nmore\n"), file("two", "of-file\n"));
        let keys = file("keys", "data k\n");
        let text = format!("token_file = {other:?}\nvolume_keys = {keys:?}\n");
        let configuration = file("config.toml", &text);
        let mut args = CredentialArgs {
            token_file: Some(one),
            volume_keys: None,
        };
        let environment = || Some(Secret::new("of-environment"));
        let found = find(&args, environment(), Some(&configuration)).unwrap();
        assert_eq!(token(&found).as_deref(), Some("of-argument"));
        assert_eq!(found.volume_keys.unwrap().of("data").unwrap().reveal(), "k");
        args.token_file = None;
        let found = find(&args, environment(), Some(&configuration)).unwrap();
        assert_eq!(token(&found).as_deref(), Some("of-environment"));
        let found = find(&args, None, Some(&configuration)).unwrap();
        assert_eq!(token(&found).as_deref(), Some("of-file"));
        let none = directory.path().join("none.toml");
        assert_eq!(token(&find(&args, None, Some(&none)).unwrap()), None);
        args.token_file = Some(none);
        assert!(find(&args, None, None).is_err());
    }

    #[test]
    fn a_configuration_says_nothing_that_is_not_known() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "token = \"a secret does not lie here\"\n").unwrap();
        assert!(configured(file.path()).is_err());
    }
}
