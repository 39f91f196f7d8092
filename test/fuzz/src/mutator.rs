//! Makes new inputs from known ones.

use ashlar_reactor::sim::Rng;

/// Longest input that is made.
const INPUT_BYTES_MAX: usize = 16 << 10;
/// Numbers that parsers have trouble with.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    8,
    255,
    511,
    512,
    4095,
    4096,
    65_536,
    (1 << 25) + 1,
    (1 << 31) - 1,
    u32::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// A source of mutated inputs; the same seed gives the same ones.
#[derive(Debug)]
pub struct Mutator {
    rng: Rng,
}

impl Mutator {
    /// Seeded; any number will do.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
        }
    }

    /// A number for whoever needs one.
    pub fn number(&mut self) -> u64 {
        self.rng.below(u64::MAX)
    }

    /// An input made from those of `corpus`, which must not be empty.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.rng.index(corpus.len())].clone();
        // Mostly few changes: what is nearly right gets furthest.
        let most = 1 << self.rng.index(5);
        let changes = 1 + self.rng.index(most);
        for _ in 0..changes {
            self.change(&mut input, corpus);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        if input.is_empty() {
            input.push(self.byte());
            return;
        }
        let at = self.rng.index(input.len());
        match self.rng.index(9) {
            0 => input[at] ^= 1 << self.rng.index(8),
            1 => input[at] = self.byte(),
            2 | 3 => self.put_number(input, at),
            4 => {
                let len = self.len(input.len() - at);
                input.drain(at..at + len);
            }
            5 => {
                let len = self.len(input.len() - at);
                let copy = input[at..at + len].to_vec();
                let to = self.rng.index(input.len() + 1);
                input.splice(to..to, copy);
            }
            6 => {
                let other = &corpus[self.rng.index(corpus.len())];
                if !other.is_empty() {
                    let from = self.rng.index(other.len());
                    let len = self.len(other.len() - from);
                    input.splice(at..at, other[from..from + len].iter().copied());
                }
            }
            7 => {
                let bytes: Vec<u8> = (0..1 + self.rng.index(32)).map(|_| self.byte()).collect();
                input.splice(at..at, bytes);
            }
            _ => input.truncate(at),
        }
    }

    /// A length up to `most`, mostly short.
    fn len(&mut self, most: usize) -> usize {
        let bound = 1 << self.rng.index(12);
        1 + self.rng.index(bound.min(most))
    }

    fn put_number(&mut self, input: &mut [u8], at: usize) {
        let width = 1 << self.rng.index(4);
        let number = NUMBERS[self.rng.index(NUMBERS.len())];
        let number = number.wrapping_add(self.rng.below(3)).wrapping_sub(1);
        let big = number.to_be_bytes();
        let little = number.to_le_bytes();
        let bytes = if self.rng.index(2) == 0 {
            &big[8 - width..]
        } else {
            &little[..width]
        };
        for (target, byte) in input[at..].iter_mut().zip(bytes) {
            *target = *byte;
        }
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.rng.below(256)).unwrap_or(0)
    }
}
