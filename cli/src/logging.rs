//! The log: what is shown of it, and that this can change while a process runs.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

type Change = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// How the running log's filter is changed.
static CHANGE: OnceLock<Change> = OnceLock::new();

/// What is shown unless told otherwise.
const USUAL: &str = "info";

/// Logs go to standard error; `filter`, or `ASHLAR_LOG`, sets what is shown, as `info` or
/// `ashlar_store=debug`.
pub fn start(filter: Option<&str>) {
    let variable = std::env::var("ASHLAR_LOG").ok();
    let wanted = filter.or(variable.as_deref()).unwrap_or(USUAL);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse(wanted))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_filter_reloading();
    let handle = builder.reload_handle();
    let change = move |filter| {
        // The log is gone only with the process.
        let _ = handle.reload(filter);
    };
    let _ = CHANGE.set(Box::new(change));
    builder.init();
}

/// Shows this from now on.
pub fn show(filter: &str) {
    if let Some(change) = CHANGE.get() {
        change(parse(filter));
    }
}

fn parse(filter: &str) -> EnvFilter {
    EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(USUAL))
}
