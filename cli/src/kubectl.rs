//! `kubectl ashlar`: the same binary, found as `kubectl-ashlar`, runs commands where the conductor is.
//!
//! With `ASHLAR_API` or --api it is `ashlar`. Otherwise `kubectl exec` runs the command in the pod of a
//! conductor: kubectl finds the cluster as it always does, and whoever may exec there may do anything. Where
//! nodes have identities the pod, which has the authority's key, makes one that is good for minutes.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command as Process;

use anyhow::{Context, bail};

use crate::args::{Cli, Command, DiskCommand, VolumeCommand};

/// What kubectl looks for on the path.
const PLUGIN: &str = "kubectl-ashlar";

/// Where the chart puts conductors, unless the variables say otherwise.
const NAMESPACE: (&str, &str) = ("ASHLAR_KUBERNETES_NAMESPACE", "ashlar-system");
const CONDUCTOR: (&str, &str) = (
    "ASHLAR_KUBERNETES_CONDUCTOR",
    "statefulset/ashlar-conductor",
);

/// Options that name files of this machine, which the pod does not have.
const FILES: [&str; 6] = [
    "--token-file",
    "--volume-keys",
    "--identity-dir",
    "--join-token-file",
    "--ca",
    "--secret-file",
];

/// What runs in the pod: its environment says where the API is, and where the authority.
const IN_POD: &str = r#"
[ -n "${ASHLAR_IDENTITY_DIR:-}" ] || exec ashlar "$@"
own=$(mktemp -d) || exit 1
trap 'rm -rf "$own"' EXIT
ashlar cluster issue --dir "$ASHLAR_IDENTITY_DIR" --role client --name kubectl --ttl 15m --out "$own" >/dev/null || exit 1
ASHLAR_IDENTITY_DIR=$own ashlar "$@"
"#;

const HELP: &str = "\
As a plugin of kubectl: with ASHLAR_API or --api it asks the conductor there; otherwise commands run in the
pod of a conductor, by `kubectl exec`, in the namespace ASHLAR_KUBERNETES_NAMESPACE (ashlar-system) at
ASHLAR_KUBERNETES_CONDUCTOR (statefulset/ashlar-conductor). KUBECONFIG and its current context count.

Examples:
  kubectl ashlar status
  kubectl ashlar volume list --json
  kubectl ashlar disk list";

/// The command line with the plugin's name and help, if it was called by it.
pub fn under_its_name(command: clap::Command, argv: &[OsString]) -> clap::Command {
    if is_plugin(argv) {
        command.bin_name("kubectl ashlar").after_help(HELP)
    } else {
        command
    }
}

/// Becomes kubectl, if this is the plugin and nothing says where the API is.
///
/// # Errors
/// The command needs files of this machine; kubectl cannot be run.
pub fn go(cli: &Cli, argv: &[OsString]) -> anyhow::Result<()> {
    let says_where = std::env::var_os("ASHLAR_API").is_some_and(|api| !api.is_empty())
        || has_option(argv, "--api");
    if !is_plugin(argv) || says_where || is_of_this_machine(&cli.command) {
        return Ok(());
    }
    if let Some(option) = FILES.into_iter().find(|option| has_option(argv, option)) {
        bail!(
            "{option} names a file of this machine, and the command would run in a pod: {INSTEAD}"
        );
    }
    if has_files(&cli.command) {
        bail!(
            "this command reads or writes files of this machine, and would run in a pod: {INSTEAD}"
        );
    }
    let set =
        |(name, usual): (&str, &str)| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let line = kubectl(&set(NAMESPACE), &set(CONDUCTOR), argv);
    let error = Process::new("kubectl").args(line).exec();
    Err(error).context("kubectl cannot be run")
}

const INSTEAD: &str = "set ASHLAR_API to a conductor that this machine reaches";

fn is_plugin(argv: &[OsString]) -> bool {
    let name = argv.first().and_then(|name| Path::new(name).file_name());
    name == Some(OsStr::new(PLUGIN))
}

/// Whether an option stands among the words, before a `--`.
fn has_option(argv: &[OsString], option: &str) -> bool {
    let words = argv.iter().filter_map(|word| word.to_str());
    let mut words = words.take_while(|word| *word != "--");
    words.any(|word| {
        word.strip_prefix(option)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// Asks no conductor, or is a process of a node.
fn is_of_this_machine(command: &Command) -> bool {
    let is_disk = matches!(
        command,
        Command::Disk {
            command: DiskCommand::Format(_) | DiskCommand::Inspect(_),
            ..
        }
    );
    is_disk || command.is_role()
}

fn has_files(command: &Command) -> bool {
    matches!(
        command,
        Command::Bench(_)
            | Command::Meta { .. }
            | Command::Volume {
                command: VolumeCommand::Import(_) | VolumeCommand::Export(_),
                ..
            }
    )
}

/// kubectl's arguments.
fn kubectl(namespace: &str, conductor: &str, argv: &[OsString]) -> Vec<OsString> {
    let fixed = [
        "exec",
        "--stdin",
        "--namespace",
        namespace,
        conductor,
        "--container",
        "conductor",
        "--",
        "sh",
        "-c",
        IN_POD,
        "ashlar",
    ];
    let words = fixed.into_iter().map(OsString::from);
    words.chain(argv.iter().skip(1).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn argv(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn it_is_known_by_its_name_alone() {
        for line in ["kubectl-ashlar status", "/usr/local/bin/kubectl-ashlar"] {
            assert!(is_plugin(&argv(line)), "{line}");
        }
        for line in ["ashlar kubectl-ashlar", "/kubectl-ashlar/ashlar status"] {
            assert!(!is_plugin(&argv(line)), "{line}");
        }
    }

    #[test]
    fn usage_is_under_the_name_that_it_was_called_by() {
        let usage = |line: &str| {
            let command = under_its_name(Cli::command(), &argv(line));
            let refused = command.try_get_matches_from(argv(line)).unwrap_err();
            refused.to_string()
        };
        assert!(usage("kubectl-ashlar --help").contains("Usage: kubectl ashlar "));
        assert!(usage("kubectl-ashlar --help").contains("KUBECONFIG"));
        assert!(usage("kubectl-ashlar volume").contains("Usage: kubectl ashlar volume"));
        assert!(usage("ashlar --help").contains("Usage: ashlar "));
        assert!(!usage("ashlar --help").contains("KUBECONFIG"));
    }

    #[test]
    fn arguments_reach_the_pod_as_they_were() {
        let given = argv("kubectl-ashlar --json volume show a;b");
        let line = kubectl("n", "statefulset/c", &given);
        let [.., name, json, volume, show, last] = line.as_slice() else {
            panic!("{line:?}");
        };
        assert_eq!(
            [name, json, volume, show, last],
            ["ashlar", "--json", "volume", "show", "a;b"]
        );
        let at = |word: &str| line.iter().position(|other| other == word);
        assert_eq!(at("n"), at("--namespace").map(|at| at + 1));
        assert!(at("--") > at("statefulset/c"));
    }

    #[test]
    fn options_are_found_in_both_spellings_and_not_among_values() {
        assert!(has_option(&argv("a --api http://b"), "--api"));
        assert!(has_option(&argv("a --api=http://b"), "--api"));
        assert!(!has_option(&argv("a --apis b"), "--api"));
        assert!(!has_option(&argv("a -- --api b"), "--api"));
    }

    #[test]
    fn commands_with_files_of_this_machine_do_not_go_to_the_pod() {
        let parsed = |line: &str| Cli::try_parse_from(argv(line)).unwrap().command;
        assert!(has_files(&parsed("ashlar meta backup file")));
        assert!(has_files(&parsed("ashlar volume export v file")));
        assert!(!has_files(&parsed("ashlar volume list")));
        assert!(is_of_this_machine(&parsed("ashlar disk inspect /dev/null")));
        assert!(is_of_this_machine(&parsed("ashlar cluster init --dir d")));
        assert!(!is_of_this_machine(&parsed("ashlar disk list")));
    }
}
