//! The settings of a process: the command line, before the environment, before a file, before defaults.
//!
//! ```text
//! argv ──▶ which role, which file, what is given ──┐
//! ASHLAR_ROLE_OPTION ── what is not ───────────────┼──▶ one command line ──▶ clap ──▶ arguments
//! --config FILE ── what neither gives ─────────────┘       each fault noted, left out, tried again
//! ```
//!
//! Invariants: names and meanings are those of the options, in one table, which is clap's; what is wrong is
//! said all at once, and nothing starts then.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::args::Cli;
use crate::kubectl;

mod check;

pub use check::{check, process};

/// The roles, which read settings from elsewhere, too.
const ROLES: [&str; 6] = ["up", "conductor", "store", "nbd", "iscsi", "csi"];

/// Options that only the command line has.
const COMMAND_LINE_ALONE: [&str; 4] = ["config", "check-config", "help", "version"];

/// Faults that are told: beyond these the file is none.
const FAULTS_MAX: usize = 64;

/// What is wrong with the settings.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            writeln!(f, "error: {fault}")?;
        }
        Ok(())
    }
}

/// Why there are no arguments.
pub enum Refused {
    /// The command line is wrong, or asks for help.
    CommandLine(clap::Error),
    /// Settings from elsewhere are.
    Settings(Faults),
}

/// The arguments, from everywhere.
///
/// # Errors
/// [`Refused`].
pub fn parse(
    argv: Vec<OsString>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Cli, Refused> {
    let command = kubectl::under_its_name(Cli::command(), &argv);
    let Some((role, given)) = role_of(&command, &argv) else {
        let matches = command.try_get_matches_from(argv);
        return matches
            .and_then(|m| Cli::from_arg_matches(&m))
            .map_err(Refused::CommandLine);
    };
    let mut faults = Vec::new();
    let options = role_options(&command, role);
    let config = given.get_one::<PathBuf>("config");
    let mut settings = match config.map(|path| read(path, &options)) {
        None => BTreeMap::new(),
        Some(Ok((settings, wrong))) => {
            faults.extend(wrong);
            settings
        }
        Some(Err(fault)) => return Err(Refused::Settings(Faults(vec![fault]))),
    };
    settings.extend(of_environment(role, &options, environment));
    settings.retain(|name, _| !is_given(&given, &options[name]));
    // Clap knows no other value of an option that may stand once.
    let command = command.mut_subcommand(role, |role| role.args_override_self(true));
    merge(&command, argv, role, settings, faults)
}

/// Parses with the settings in front of what was given; leaves out what is wrong, and notes it.
fn merge(
    command: &Command,
    argv: Vec<OsString>,
    role: &str,
    mut settings: BTreeMap<String, Setting>,
    mut faults: Vec<String>,
) -> Result<Cli, Refused> {
    loop {
        let line = with_settings(&argv, role, &settings);
        let parsed = command.clone().try_get_matches_from(line);
        let error = match parsed.and_then(|m| Cli::from_arg_matches(&m)) {
            Ok(cli) if faults.is_empty() => return Ok(cli),
            Ok(_) => return Err(Refused::Settings(Faults(faults))),
            Err(error) => error,
        };
        let at_fault = setting_of(&error).filter(|name| settings.contains_key(name));
        match at_fault {
            Some(name) if faults.len() < FAULTS_MAX => {
                let source = settings.remove(&name).map(|s| s.source).unwrap_or_default();
                faults.push(format!("{source}: {}", first_line(&error)));
            }
            _ if faults.is_empty() => return Err(Refused::CommandLine(error)),
            _ => {
                // What is lacking may be what was left out just now.
                if error.kind() != ErrorKind::MissingRequiredArgument {
                    faults.push(first_line(&error));
                }
                return Err(Refused::Settings(Faults(faults)));
            }
        }
    }
}

/// An option's values, as on a command line, and where they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Setting {
    values: Vec<String>,
    is_switch: bool,
    source: String,
}

/// The role that is to run, and what the command line gives it.
fn role_of(command: &Command, argv: &[OsString]) -> Option<(&'static str, ArgMatches)> {
    let lenient = command.clone().ignore_errors(true);
    let matches = lenient.try_get_matches_from(argv).ok()?;
    let (name, given) = matches.subcommand()?;
    let role = ROLES.into_iter().find(|role| *role == name)?;
    Some((role, given.clone()))
}

fn is_given(given: &ArgMatches, option: &Arg) -> bool {
    let source = given.value_source(option.get_id().as_str());
    matches!(
        source,
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    )
}

/// The options of a role by their long names.
fn role_options(command: &Command, role: &str) -> BTreeMap<String, Arg> {
    let role = command.find_subcommand(role);
    let options = role.into_iter().flat_map(Command::get_arguments);
    options
        .filter_map(|arg| Some((arg.get_long()?.to_owned(), arg.clone())))
        .filter(|(name, _)| !COMMAND_LINE_ALONE.contains(&name.as_str()))
        .collect()
}

fn is_list(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}

fn is_switch(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue)
}

/// The settings of a file, and what is wrong with others of it.
fn read(
    path: &Path,
    options: &BTreeMap<String, Arg>,
) -> Result<(BTreeMap<String, Setting>, Vec<String>), String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|error| format!("{shown}: {}", error.message()))?;
    let (mut settings, mut faults) = (BTreeMap::new(), Vec::new());
    for (key, value) in table {
        let name = key.replace('_', "-");
        let source = format!("{shown}: {key}");
        let Some(option) = options.get(&name) else {
            let near = nearest(&name, options);
            let hint = near.map(|near| format!(", did you mean `{near}`?"));
            let hint = hint.unwrap_or_default();
            faults.push(format!("{source}: there is no such setting{hint}"));
            continue;
        };
        match values_of(option, &value) {
            Ok(values) => {
                let is_switch = is_switch(option);
                let setting = Setting {
                    values,
                    is_switch,
                    source,
                };
                settings.insert(name, setting);
            }
            Err(wanted) => faults.push(format!("{source}: give {wanted}")),
        }
    }
    Ok((settings, faults))
}

/// The values of an option, as on a command line; what it wants otherwise.
fn values_of(option: &Arg, value: &toml::Value) -> Result<Vec<String>, &'static str> {
    let plain = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        toml::Value::Boolean(is_on) if is_switch(option) => {
            Ok(is_on.then(String::new).into_iter().collect())
        }
        _ if is_switch(option) => Err("true or false"),
        toml::Value::Array(values) if is_list(option) => {
            let values: Option<Vec<String>> = values.iter().map(plain).collect();
            values.ok_or("a list of texts")
        }
        value if is_list(option) => {
            let one = plain(value).ok_or("a text, or a list of texts")?;
            Ok(vec![one])
        }
        value => {
            let one = plain(value).ok_or("a text or a number")?;
            Ok(vec![one])
        }
    }
}

/// What the environment says: `ASHLAR_STORE_MAP_CACHE`; lists with commas, switches as `true` or `false`.
fn of_environment(
    role: &str,
    options: &BTreeMap<String, Arg>,
    environment: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, Setting> {
    let setting = |(name, option): (&String, &Arg)| {
        let variable = variable(role, name);
        let text = environment(&variable).filter(|text| !text.is_empty())?;
        let values = match (is_switch(option), is_list(option)) {
            (true, _) if text == "false" => Vec::new(),
            (true, _) => vec![text],
            (false, true) => text.split(',').map(str::to_owned).collect(),
            (false, false) => vec![text],
        };
        let setting = Setting {
            values,
            is_switch: is_switch(option),
            source: variable,
        };
        Some((name.clone(), setting))
    };
    options.iter().filter_map(setting).collect()
}

fn variable(role: &str, name: &str) -> String {
    let name = name.replace('-', "_").to_uppercase();
    format!("ASHLAR_{}_{name}", role.to_uppercase())
}

/// The command line with the settings behind the role's name.
fn with_settings(
    argv: &[OsString],
    role: &str,
    settings: &BTreeMap<String, Setting>,
) -> Vec<OsString> {
    let at = argv.iter().position(|word| word == role);
    let at = at.map_or(argv.len(), |at| at + 1);
    let mut line = argv[..at].to_vec();
    for (name, setting) in settings {
        for value in &setting.values {
            line.push(match setting.is_switch {
                true => format!("--{name}").into(),
                false => format!("--{name}={value}").into(),
            });
        }
    }
    line.extend_from_slice(&argv[at..]);
    line
}

/// The option that an error is about.
fn setting_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let name = shown.strip_prefix("--")?;
    let end = name.find([' ', '=', '[']).unwrap_or(name.len());
    Some(name[..end].to_owned())
}

fn first_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.lines().next().unwrap_or_default().to_owned()
}

/// The option whose name begins like this one, or differs in one letter.
fn nearest<'a>(name: &str, options: &'a BTreeMap<String, Arg>) -> Option<&'a str> {
    let differs_little = |known: &str| {
        let pairs = known.chars().zip(name.chars());
        let different = pairs.filter(|(a, b)| a != b).count();
        known.len() == name.len() && different <= 1
            || known.starts_with(name)
            || name.starts_with(known)
    };
    let mut names = options.keys().map(String::as_str);
    names.find(|known| differs_little(known))
}

/// What `log` says in a settings file, if it can be read.
pub fn log_filter(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let table: toml::Table = toml::from_str(&text).ok()?;
    Some(table.get("log")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests;
