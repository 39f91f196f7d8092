//! The trace of a run: a hash over all its events, and a bounded log of the last of them.
//!
//! Two runs of one seed have equal hashes; a difference means that something outside the world
//! (a clock, an address, the order of a hash map) has leaked in.

use std::collections::VecDeque;

use super::rng::split_mix;

/// Events that the log keeps for a failure report.
const LINES_MAX: usize = 200;

/// The hash and the last lines.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    events: u64,
    lines: Option<VecDeque<String>>,
}

impl Trace {
    /// A trace that also keeps its last lines as text.
    pub fn with_lines() -> Self {
        Self {
            lines: Some(VecDeque::new()),
            ..Self::default()
        }
    }

    /// Mixes one event into the hash: when, what and up to three figures.
    pub fn event(&mut self, now_ns: u64, what: &'static str, figures: [u64; 3]) {
        self.events += 1;
        for word in [now_ns, word_of(what), figures[0], figures[1], figures[2]] {
            let mut state = self.hash ^ word;
            self.hash = split_mix(&mut state);
        }
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            let [a, b, c] = figures;
            lines.push_back(format!("{now_ns:>14} {what} {a} {b} {c}"));
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().flatten().cloned().collect()
    }
}

fn word_of(text: &str) -> u64 {
    let mut word = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        word = (word ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_figures_count() {
        let hash = |events: &[(&'static str, u64)]| {
            let mut trace = Trace::default();
            for &(what, figure) in events {
                trace.event(1, what, [figure, 0, 0]);
            }
            trace.hash()
        };
        assert_eq!(hash(&[("a", 1), ("b", 2)]), hash(&[("a", 1), ("b", 2)]));
        assert_ne!(hash(&[("a", 1), ("b", 2)]), hash(&[("b", 2), ("a", 1)]));
        assert_ne!(hash(&[("a", 1)]), hash(&[("a", 2)]));
    }
}
