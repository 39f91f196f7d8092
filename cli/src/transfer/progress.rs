//! How far a transfer is, on standard error: a bar for a terminal, a line now and then otherwise.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::bytes;

/// Between two lines.
const LINES_EVERY: Duration = Duration::from_secs(5);

/// Shows how far it is; called from any thread.
pub enum Progress {
    /// Says nothing.
    Quiet,
    /// On a terminal.
    Bar(ProgressBar),
    /// Into a log.
    Lines(Mutex<Lines>),
}

/// See [`Progress::Lines`].
pub struct Lines {
    total: Option<u64>,
    doing: &'static str,
    /// Where this doing began, and when.
    from: (u64, Instant),
    said: Instant,
}

impl Progress {
    /// For `total` bytes, if that is known.
    pub fn new(quiet: bool, total: Option<u64>) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if std::io::stderr().is_terminal() {
            return Self::Bar(bar(total));
        }
        let now = Instant::now();
        Self::Lines(Mutex::new(Lines {
            total,
            doing: "",
            from: (0, now),
            said: now,
        }))
    }

    /// It now does something, from `at` on.
    pub fn begin(&self, doing: &'static str, at: u64) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => {
                bar.set_message(doing);
                bar.set_position(at);
                bar.reset_eta();
            }
            Self::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.doing = doing;
                lines.from = (at, Instant::now());
            }
        }
    }

    /// It has come to `at`.
    pub fn reach(&self, at: u64) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.set_position(at),
            Self::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                if now - lines.said >= LINES_EVERY {
                    lines.said = now;
                    eprintln!("{}", lines.line(at, now - lines.from.1));
                }
            }
        }
    }

    /// Says something beside.
    pub fn note(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.println(text),
            Self::Lines(_) => eprintln!("{text}"),
        }
    }

    /// It is over: takes the bar away.
    pub fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn line(&self, at: u64, elapsed: Duration) -> String {
        let done = at.saturating_sub(self.from.0);
        let per_second = per_second(done, elapsed);
        let rate = format!("{}/s", bytes(per_second));
        let doing = self.doing;
        let Some(total) = self.total.filter(|total| *total > 0) else {
            return format!("{doing}: {}, {rate}", bytes(at));
        };
        let percent = u128::from(at) * 100 / u128::from(total);
        let left = total.saturating_sub(at).checked_div(per_second);
        let left = left.map_or_else(String::new, |seconds| {
            let left = humantime::format_duration(Duration::from_secs(seconds));
            format!(", {left} left")
        });
        format!(
            "{doing}: {} of {}, {percent} %, {rate}{left}",
            bytes(at),
            bytes(total)
        )
    }
}

fn per_second(done: u64, elapsed: Duration) -> u64 {
    let ms = elapsed.as_millis().max(1);
    u64::try_from(u128::from(done) * 1000 / ms).unwrap_or(u64::MAX)
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = if total.is_some() {
        "{msg} [{bar:30}] {percent:>3} % of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left"
    } else {
        "{msg} {binary_bytes}, {binary_bytes_per_sec}"
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_and_how_long() {
        let now = Instant::now();
        let mut lines = Lines {
            total: Some(8 << 30),
            doing: "importing",
            from: (1 << 30, now),
            said: now,
        };
        assert_eq!(
            lines.line(2 << 30, Duration::from_secs(4)),
            "importing: 2.0 GiB of 8.0 GiB, 25 %, 256.0 MiB/s, 24s left"
        );
        assert_eq!(
            lines.line(1 << 30, Duration::ZERO),
            "importing: 1.0 GiB of 8.0 GiB, 12 %, 0 B/s"
        );
        lines.total = None;
        let line = lines.line(2 << 30, Duration::from_secs(4));
        assert_eq!(line, "importing: 2.0 GiB, 256.0 MiB/s");
    }

    #[test]
    fn templates_are_right() {
        for total in [None, Some(5)] {
            let bar = bar(total);
            bar.set_position(3);
            bar.finish_and_clear();
        }
    }
}
