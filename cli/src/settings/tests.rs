//! Settings of processes: files, the environment, and what is wrong in them.

use super::*;
use crate::args::Command as Chosen;

fn argv(words: &[&str]) -> Vec<OsString> {
    let words = ["ashlar"].iter().chain(words);
    words.map(OsString::from).collect()
}

/// A file with that text.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn parsed(words: &[&str], environment: &[(&str, &str)]) -> Result<Cli, Faults> {
    let environment: BTreeMap<&str, &str> = environment.iter().copied().collect();
    let look = |name: &str| environment.get(name).map(|value| (*value).to_owned());
    parse(argv(words), look).map_err(|refused| match refused {
        Refused::Settings(faults) => faults,
        Refused::CommandLine(error) => Faults(vec![first_line(&error)]),
    })
}

const STORE: &str = r#"
disk = ["/a", "/b"]
conductor = "http://10.0.0.1:7100"
threads = 2
label = ["zone=a"]
map_cache = "1GiB"
"#;

fn store(words: &[&str], environment: &[(&str, &str)], text: &str) -> crate::args::StoreArgs {
    let file = file(text);
    let config = file.path().to_str().unwrap();
    let words: Vec<&str> = ["store", "--config", config]
        .iter()
        .chain(words)
        .copied()
        .collect();
    match parsed(&words, environment).unwrap().command {
        Chosen::Store(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_gives_what_a_command_line_would() {
    let args = store(&[], &[], STORE);
    assert_eq!(args.disk, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(
        (args.threads, args.conductor.as_str()),
        (2, "http://10.0.0.1:7100")
    );
    assert_eq!(args.label, [("zone".to_owned(), "a".to_owned())]);
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
    let environment = [
        ("ASHLAR_STORE_THREADS", "3"),
        ("ASHLAR_STORE_DISK", "/c,/d"),
    ];
    let args = store(&[], &environment, STORE);
    assert_eq!(args.threads, 3);
    assert_eq!(args.disk, [PathBuf::from("/c"), PathBuf::from("/d")]);
    let args = store(&["--threads", "4", "--disk", "/e"], &environment, STORE);
    assert_eq!(args.threads, 4);
    assert_eq!(
        args.disk,
        [PathBuf::from("/e")],
        "a list is replaced, not made longer"
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"
disk = ["/a"]
conductor = "http://10.0.0.1:7100"
threads = 1000
thread = 4
label = ["zone"]
listen = true
spin_us = "long"
"#;
    let file = file(text);
    let config = file.path().to_str().unwrap();
    let faults = parsed(&["store", "--config", config], &[]).unwrap_err();
    let told = faults.to_string();
    for expected in [
        "threads: invalid value '1000'",
        "thread: there is no such setting, did you mean `threads`?",
        "label: invalid value 'zone'",
        "listen: give a text or a number",
        "spin_us: invalid value 'long'",
    ] {
        assert!(told.contains(expected), "{expected} not in\n{told}");
    }
    assert_eq!(faults.0.len(), 5, "{told}");
}

#[test]
fn switches_are_true_or_false() {
    let nbd = |text: &str, environment: &[(&str, &str)]| {
        let file = file(text);
        let config = file.path().to_str().unwrap();
        let words = ["nbd", "--config", config, "--conductor", "http://a:1"];
        match parsed(&words, environment).unwrap().command {
            Chosen::Nbd(args) => args.force_attach,
            other => panic!("{other:?}"),
        }
    };
    assert!(nbd("force-attach = true", &[]));
    assert!(!nbd("force-attach = false", &[]));
    assert!(!nbd(
        "force-attach = true",
        &[("ASHLAR_NBD_FORCE_ATTACH", "false")]
    ));
    assert!(nbd("", &[("ASHLAR_NBD_FORCE_ATTACH", "true")]));
}

#[test]
fn a_file_that_is_none_is_named() {
    let faults = parsed(&["store", "--config", "/does/not/exist"], &[]).unwrap_err();
    assert!(faults.0[0].starts_with("/does/not/exist: "), "{faults}");
    let broken = file("disk = [");
    let path = broken.path().to_str().unwrap();
    let faults = parsed(&["store", "--config", path], &[]).unwrap_err();
    assert!(faults.0[0].starts_with(path), "{faults}");
}

#[test]
fn what_a_file_cannot_give_is_still_asked_for() {
    let file = file("threads = 2");
    let config = file.path().to_str().unwrap();
    let faults = parsed(&["store", "--config", config], &[]).unwrap_err();
    assert!(faults.0[0].contains("required"), "{faults}");
}

#[test]
fn the_files_of_the_units_are_right() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    for role in ROLES.into_iter().filter(|role| *role != "up") {
        let path = directory.join(format!("{role}.toml"));
        let words = [role, "--config", path.to_str().unwrap()];
        let cli = parsed(&words, &[]).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(check::process(&cli.command).unwrap().metrics.is_some());
    }
}

#[test]
fn other_commands_read_no_settings() {
    assert!(parsed(&["volume", "list"], &[("ASHLAR_VOLUME_API", "x")]).is_ok());
    assert!(parsed(&["volume", "list", "--config", "x"], &[]).is_err());
}

#[test]
fn a_conductor_by_tls_needs_to_be_told_whom_to_trust_and_no_more() {
    let faults = |words: &[&str]| {
        let words = [&["nbd", "--conductor", "https://a.example:7100"], words].concat();
        let cli = parsed(&words, &[]).unwrap();
        check::check(&cli.command, &cli.identity)
    };
    let refused = faults(&[]);
    assert!(refused[0].contains("--identity-dir or --ca"), "{refused:?}");
    for words in [["--identity-dir", "/not/there/yet"], ["--ca", "/ca.pem"]] {
        assert_eq!(faults(&words), Vec::<String>::new(), "{words:?}");
    }
    let words = ["nbd", "--conductor", "ftp://a", "--ca", "/ca.pem"];
    let cli = parsed(&words, &[]).unwrap();
    assert_eq!(check::check(&cli.command, &cli.identity).len(), 1);
}
