//! Stopping on request: SIGINT (Ctrl-C) and SIGTERM.

use ashlar_reactor::channel::remote;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

/// What a shell expects of a program ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// Completes when the process is asked to stop.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn stop_requested() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// A channel that gets one message when the process is asked to stop. Asked a second time, the
/// process ends at once, as it would by SIGKILL: nothing acknowledged is lost, the next start
/// replays its log.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_channel(control: &Handle) -> std::io::Result<remote::Receiver<()>> {
    let (sender, receiver) = remote::bounded(1);
    let _context = control.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    control.spawn(async move {
        for times in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if times > 0 {
                std::process::exit(INTERRUPTED);
            }
            let _ = sender.try_send(());
        }
    });
    Ok(receiver)
}
