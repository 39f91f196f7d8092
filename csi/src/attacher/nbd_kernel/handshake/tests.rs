//! The client's part against servers that say what they are told to.

use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

/// A server that reads the client's option and answers so; gives what became of the client, and what
/// it sent.
fn meet(answers: Vec<u8>) -> (Result<ExportFacts, HandshakeError>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = INIT_MAGIC.to_be_bytes().to_vec();
        greeting.extend(OPTION_MAGIC.to_be_bytes());
        greeting.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        stream.write_all(&greeting).unwrap();
        let mut asked = vec![0; 4 + 16 + 4 + 3 + 4];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(&answers).unwrap();
        drop(stream);
        asked
    });
    let told = Connection::open(&Address::Unix(path), "vol", LIMIT).map(|one| one.export);
    (told, server.join().unwrap())
}

fn reply(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(OPTION_GO.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn an_export_is_entered_by_its_name() {
    let mut export = INFO_EXPORT.to_be_bytes().to_vec();
    export.extend((1u64 << 30).to_be_bytes());
    export.extend(CAN_MULTI_CONN.to_be_bytes());
    let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
    for bytes in [512u32, 4096, 32 << 20] {
        sizes.extend(bytes.to_be_bytes());
    }
    let answers = [
        reply(REPLY_INFO, &sizes),
        reply(REPLY_INFO, &[0, 1, b'v']),
        reply(REPLY_INFO, &export),
        reply(REPLY_ACK, &[]),
    ];
    let (told, asked) = meet(answers.concat());
    let expected = ExportFacts {
        size_bytes: 1 << 30,
        flags: CAN_MULTI_CONN,
        block_bytes: 512,
    };
    assert_eq!(told.unwrap(), expected);
    let (flags, option) = asked.split_at(4);
    assert_eq!(flags, [0, 0, 0, 3]);
    assert_eq!(
        option,
        b"IHAVEOPT\0\0\0\x07\0\0\0\x0b\0\0\0\x03vol\0\x01\0\x03"
    );
}

#[test]
fn refusals_say_what_to_do() {
    let of = |kind, words: &[u8]| meet(reply(kind, words)).0.unwrap_err();
    assert!(matches!(
        of(ERROR_UNKNOWN, b""),
        HandshakeError::Unknown { .. }
    ));
    assert!(matches!(of(ERROR_TLS, b""), HandshakeError::WantsTls));
    let busy = of(ERROR_BIT | 2, b"attached elsewhere");
    assert!(busy.to_string().contains("attached elsewhere"), "{busy}");
}

#[test]
fn what_is_no_server_is_told_from_one_that_is_silent() {
    let strange = [
        reply(REPLY_ACK, &[]),
        reply(9, &[]),
        vec![0; 20],
        reply(REPLY_INFO, &[0; 70_000]),
    ];
    for answers in strange {
        let (told, _) = meet(answers);
        assert!(
            matches!(told, Err(HandshakeError::Strange { .. })),
            "{told:?}"
        );
    }
    for answers in [vec![], reply(REPLY_INFO, &[0])] {
        let (told, _) = meet(answers);
        assert!(
            matches!(told, Err(HandshakeError::Silent { .. })),
            "{told:?}"
        );
    }
    let nowhere = Connection::open(&Address::Unix("/nowhere".into()), "vol", LIMIT);
    assert!(matches!(nowhere, Err(HandshakeError::Silent { .. })));
}
