//! Structures on disk: the decoders of `ashlar_store`, which puts magics and checksums right.

use ashlar_store::lane::fuzz;

/// Inputs of every kind.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for kind in 0..fuzz::KINDS {
        for len in [32, 64, 200] {
            let mut seed = vec![0; 1 + len];
            seed[0] = kind;
            seeds.push(seed);
        }
    }
    let entries = fuzz::sample_entries();
    seeds.push([&[2, 7, 5, 0][..], &entries].concat());
    let head = [[0; 32].as_slice(), &[7, 0, 0, 0]].concat();
    seeds.push([&[4, 1][..], &head, &entries].concat());
    seeds
}

/// Runs one input.
pub(crate) fn run(input: &[u8]) -> u64 {
    let outcome = fuzz::decode(input);
    outcome << 16 | (input.len() as u64).min(512)
}
