//! Parameter lists of EXTENDED COPY, and the results that are kept.

use super::*;
use proptest::prelude::*;

/// An identification descriptor CSCD descriptor with an NAA designator.
pub(crate) fn cscd(naa: [u8; 8]) -> Vec<u8> {
    let mut bytes = vec![0xe4, 0, 0, 0, 1, 3, 0, 8];
    bytes.extend(naa);
    bytes.resize(28, 0);
    bytes.extend([0, 0, 2, 0]);
    bytes
}

/// A block → block segment descriptor.
pub(crate) fn segment(source: u16, target: u16, blocks: u16, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = vec![0x02, 0, 0, 0x18];
    bytes.extend(source.to_be_bytes());
    bytes.extend(target.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(blocks.to_be_bytes());
    bytes.extend(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    bytes
}

/// A parameter list of these descriptors.
pub(crate) fn list(id: u8, targets: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (targets, segments) = (targets.concat(), segments.concat());
    let mut bytes = vec![id, 0];
    bytes.extend(u16::try_from(targets.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(u32::try_from(segments.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(targets);
    bytes.extend(segments);
    bytes
}

#[test]
fn a_list_names_units_and_blocks() {
    let copy = parse(&list(7, &[cscd([3; 8])], &[segment(0, 0, 5, 1, 100)])).unwrap();
    assert_eq!((copy.list, copy.keeps), (7, true));
    let expected = Segment {
        source: 0,
        target: 0,
        blocks: 5,
        source_lba: 1,
        target_lba: 100,
    };
    assert_eq!(copy.segments, [expected]);
    assert_eq!(copy.targets[0].bytes, [3; 8]);
}

#[test]
fn too_many_descriptors_and_lists_too_long_are_told_apart() {
    let (one, some) = (cscd([0; 8]), segment(0, 0, 1, 0, 1));
    let many = list(1, &vec![one.clone(); 17], std::slice::from_ref(&some));
    assert_eq!(parse(&many), Err(Sense::illegal(code::TOO_MANY_TARGETS)));
    let many = list(1, std::slice::from_ref(&one), &vec![some.clone(); 17]);
    assert_eq!(parse(&many), Err(Sense::illegal(code::TOO_MANY_SEGMENTS)));
    let long = list(1, &vec![one.clone(); 17], &vec![some.clone(); 20]);
    assert_eq!(parse(&long), Err(Sense::list_length()));
    let whole = list(1, &[one], &[some]);
    assert_eq!(parse(&whole[..whole.len() - 1]), Err(Sense::list_length()));
    assert_eq!(parse(&whole[..47]), Err(Sense::list_length()));
}

#[test]
fn unknown_descriptors_are_refused() {
    let (mut one, mut some) = (cscd([0; 8]), segment(0, 0, 1, 0, 1));
    some[0] = 0x03;
    let wrong = list(1, std::slice::from_ref(&one), &[some]);
    assert_eq!(
        parse(&wrong),
        Err(Sense::illegal(code::UNSUPPORTED_SEGMENT))
    );
    one[0] = 0xe0;
    let wrong = list(1, &[one], &[]);
    assert_eq!(parse(&wrong), Err(Sense::illegal(code::UNSUPPORTED_TARGET)));
}

#[test]
fn operating_parameters_are_as_laid_out() {
    let told = operating_parameters();
    assert_eq!(told.len(), 47);
    assert_eq!(
        told[..16],
        [0, 0, 0, 43, 1, 0, 0, 0, 0, 16, 0, 16, 0, 0, 4, 0x40]
    );
    assert_eq!(told[16..20], [4, 0, 0, 0]);
    assert_eq!(told[34..38], [0, 255, 255, 9]);
    assert_eq!(told[43..], [3, 0x02, 0x0a, 0xe4]);
}

#[test]
fn results_are_kept_by_nexus_and_identifier() {
    let mut copies = Copies::default();
    assert_eq!(copies.status(NexusId(1), 1), None);
    assert!(copies.begin(NexusId(1), 1));
    assert!(!copies.begin(NexusId(1), 1), "it is under way");
    assert!(copies.begin(NexusId(2), 1));
    copies.find(NexusId(1), 1).unwrap().progress = Progress::Completed;
    copies.find(NexusId(1), 1).unwrap().bytes = 512;
    let told = copies.status(NexusId(1), 1).unwrap();
    assert_eq!(told, [0, 0, 0, 8, 1, 0, 0, 0, 0, 0, 2, 0]);
    copies.forget(NexusId(1));
    assert_eq!(copies.status(NexusId(1), 1), None);
}

proptest! {
    #[test]
    fn no_list_panics(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }

    #[test]
    fn lists_near_right_ones_do_not_panic(at in 0usize..110, byte: u8, cut in 0usize..110) {
        let mut bytes = list(1, &[cscd([1; 8])], &[segment(0, 0, 1, 0, 1)]);
        if let Some(target) = bytes.get_mut(at) {
            *target = byte;
        }
        bytes.truncate(cut);
        let _ = parse(&bytes);
    }
}
