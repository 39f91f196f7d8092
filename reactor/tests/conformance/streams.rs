//! Streams and listeners: TCP, Unix, and within the reactor.

use super::lab::{Lab, suite};
use ashlar_proto::Address;
use ashlar_reactor::future::join_all;
use ashlar_reactor::{NetError, Reactor, SharedBuffer, Stream, local};
use std::time::Duration;

suite!(
    echo_over_tcp,
    echo_over_unix,
    echo_within_the_reactor,
    large_transfer_over_tcp,
    large_transfer_over_unix,
    large_transfer_within_the_reactor,
    gather_send_arrives_in_order,
    receive_appends_where_told,
    both_directions_at_once,
    end_of_stream_is_seen,
    what_was_sent_before_the_end_arrives,
    shutdown_wakes_a_pending_receive,
    shutdown_wakes_a_pending_send,
    use_after_shutdown_is_an_error,
    send_to_a_closed_peer_fails,
    connect_to_nobody_is_refused,
    connect_to_a_missing_unix_path_fails,
    taken_address_cannot_be_listened_at,
    closed_listener_frees_its_address,
    listening_waits_for_the_one_before_to_let_go,
    accepts_in_turn,
    dropped_accept_loses_nothing_later,
    dropped_receive_is_safe,
    dropped_connect_is_safe,
    many_connections,
    stream_survives_detach_and_adopt,
    peers_have_names,
    local_values_pass_by_pointer,
    local_names_are_exclusive,
);

fn bytes(reactor: &Reactor, content: &[u8]) -> SharedBuffer {
    let mut buffer = reactor.buffer(content.len());
    buffer.copy_from_slice(content);
    buffer.freeze()
}

/// Receives exactly `len` bytes.
async fn receive(reactor: &Reactor, stream: &Stream, len: usize) -> Vec<u8> {
    let mut buffer = reactor.buffer(len);
    let mut at = 0;
    while at < len {
        let (back, result) = stream.recv_at(buffer, at).await;
        buffer = back;
        let got = result.expect("receives");
        assert!(got > 0, "ended after {at} of {len} bytes");
        at += got;
    }
    buffer.to_vec()
}

async fn expect_end(reactor: &Reactor, stream: &Stream) {
    let (_, result) = stream.recv(reactor.buffer(100)).await;
    assert_eq!(result, Ok(0));
}

fn local_address() -> Address {
    Address::Local("place".to_owned())
}

async fn echo(lab: &Lab, address: &Address) {
    let (client, server) = lab.pair(address).await;
    for round in 0..100u8 {
        let text = [round; 33];
        client
            .send(vec![bytes(&lab.reactor, &text)])
            .await
            .expect("sends");
        let heard = receive(&lab.reactor, &server, text.len()).await;
        server
            .send(vec![bytes(&lab.reactor, &heard)])
            .await
            .expect("sends");
        assert_eq!(receive(&lab.reactor, &client, text.len()).await, text);
    }
}

async fn echo_over_tcp(lab: Lab) {
    echo(&lab, &lab.tcp).await;
}

async fn echo_over_unix(lab: Lab) {
    echo(&lab, &lab.unix).await;
}

async fn echo_within_the_reactor(lab: Lab) {
    echo(&lab, &local_address()).await;
}

async fn large_transfer(lab: &Lab, address: &Address) {
    const TOTAL: usize = 12 << 20;
    let (client, server) = lab.pair(address).await;
    let mut data = lab.reactor.buffer(TOTAL);
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = u8::try_from(index % 251).expect("small");
    }
    let data = data.freeze();
    let sent = data.clone();
    let sending = lab.reactor.spawn(async move {
        client.send(vec![sent]).await.expect("sends");
        client
    });
    let got = receive(&lab.reactor, &server, TOTAL).await;
    assert!(got[..] == data[..]);
    drop(sending.await);
    expect_end(&lab.reactor, &server).await;
}

async fn large_transfer_over_tcp(lab: Lab) {
    large_transfer(&lab, &lab.tcp).await;
}

async fn large_transfer_over_unix(lab: Lab) {
    large_transfer(&lab, &lab.unix).await;
}

async fn large_transfer_within_the_reactor(lab: Lab) {
    large_transfer(&lab, &local_address()).await;
}

async fn gather_send_arrives_in_order(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let (client, server) = lab.pair(&address).await;
        let pieces: Vec<SharedBuffer> = (0..3000u32)
            .map(|index| {
                bytes(
                    &lab.reactor,
                    &index.to_le_bytes()[..(index % 5) as usize % 5],
                )
            })
            .collect();
        let expected: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let sender = client.clone();
        let sending = lab.reactor.spawn(async move { sender.send(pieces).await });
        let got = receive(&lab.reactor, &server, expected.len()).await;
        assert!(got == expected, "{address}");
        sending.await.expect("sends");
        client.send(Vec::new()).await.expect("sends nothing");
    }
}

async fn receive_appends_where_told(lab: Lab) {
    let (client, server) = lab.pair(&lab.tcp).await;
    client
        .send(vec![bytes(&lab.reactor, b"tail")])
        .await
        .expect("sends");
    let mut buffer = lab.reactor.buffer(100);
    buffer.fill(b'.');
    let mut at = 10;
    while at < 14 {
        let (back, result) = server.recv_at(buffer, at).await;
        buffer = back;
        at += result.expect("receives");
    }
    assert_eq!(&buffer[8..16], b"..tail..");
}

async fn both_directions_at_once(lab: Lab) {
    const TOTAL: usize = 1 << 20;
    let (client, server) = lab.pair(&lab.tcp).await;
    let tasks = [client, server].map(|stream| {
        let reactor = lab.reactor.clone();
        let sender = stream.clone();
        let data = bytes(&lab.reactor, &[5; TOTAL]);
        let sending = lab
            .reactor
            .spawn(async move { sender.send(vec![data]).await });
        lab.reactor.spawn(async move {
            let got = receive(&reactor, &stream, TOTAL).await;
            sending.await.expect("sends");
            (got, stream)
        })
    });
    for (got, _stream) in join_all(tasks).await {
        assert!(got.iter().all(|byte| *byte == 5));
    }
}

async fn end_of_stream_is_seen(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let (client, server) = lab.pair(&address).await;
        drop(client);
        expect_end(&lab.reactor, &server).await;
        expect_end(&lab.reactor, &server).await;
    }
}

async fn what_was_sent_before_the_end_arrives(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let (client, server) = lab.pair(&address).await;
        client
            .send(vec![bytes(&lab.reactor, b"last words")])
            .await
            .expect("sends");
        client.shutdown();
        drop(client);
        assert_eq!(receive(&lab.reactor, &server, 10).await, b"last words");
        expect_end(&lab.reactor, &server).await;
    }
}

async fn shutdown_wakes_a_pending_receive(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let (client, _server) = lab.pair(&address).await;
        let receiver = client.clone();
        let buffer = lab.reactor.buffer(10);
        let receiving = lab
            .reactor
            .spawn(async move { receiver.recv(buffer).await.1 });
        lab.reactor.sleep(Duration::from_millis(20)).await;
        assert!(!receiving.is_finished());
        client.shutdown();
        assert_eq!(receiving.await, Err(NetError::Shutdown), "{address}");
    }
}

async fn shutdown_wakes_a_pending_send(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let (client, _server) = lab.pair(&address).await;
        let sender = client.clone();
        // More than any queue on the way holds; nobody receives.
        let piece = lab.reactor.buffer(1 << 20).freeze();
        let data: Vec<_> = (0..100).map(|_| piece.clone()).collect();
        let sending = lab.reactor.spawn(async move { sender.send(data).await });
        lab.reactor.sleep(Duration::from_millis(50)).await;
        assert!(!sending.is_finished(), "{address}");
        client.shutdown();
        assert_eq!(sending.await, Err(NetError::Shutdown), "{address}");
    }
}

async fn use_after_shutdown_is_an_error(lab: Lab) {
    for address in [lab.tcp.clone(), local_address()] {
        let (client, _server) = lab.pair(&address).await;
        client.shutdown();
        let sent = client.send(vec![bytes(&lab.reactor, b"x")]).await;
        assert_eq!(sent, Err(NetError::Shutdown));
        let (_, received) = client.recv(lab.reactor.buffer(1)).await;
        assert_eq!(received, Err(NetError::Shutdown));
        client.shutdown();
    }
}

async fn send_to_a_closed_peer_fails(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let (client, server) = lab.pair(&address).await;
        drop(server);
        let mut failed = None;
        for _ in 0..200 {
            lab.reactor.sleep(Duration::from_millis(1)).await;
            let piece = lab.reactor.buffer(4096).freeze();
            if let Err(error) = client.send(vec![piece]).await {
                failed = Some(error);
                break;
            }
        }
        assert_eq!(failed, Some(NetError::Reset), "{address}");
    }
}

async fn connect_to_nobody_is_refused(lab: Lab) {
    for address in [lab.refused.clone(), local_address()] {
        let result = lab.reactor.connect(&address).await;
        let Err(NetError::Connect {
            address: named,
            error,
        }) = result
        else {
            panic!("{address}: {result:?}");
        };
        assert_eq!(named, address);
        assert_eq!(error.errno(), libc::ECONNREFUSED);
    }
}

async fn connect_to_a_missing_unix_path_fails(lab: Lab) {
    let result = lab.reactor.connect(&lab.unix).await;
    assert!(
        matches!(result, Err(NetError::Connect { .. })),
        "{result:?}"
    );
}

async fn taken_address_cannot_be_listened_at(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let first = lab.reactor.listen(&address).await.expect("listens");
        let again = lab.reactor.listen(&first.local_address()).await;
        assert!(
            matches!(again, Err(NetError::Listen { .. })),
            "{address}: {again:?}"
        );
    }
}

async fn closed_listener_frees_its_address(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let listener = lab.reactor.listen(&address).await.expect("listens");
        let bound = listener.local_address();
        drop(listener);
        // A Unix path left behind, with nobody who answers, is taken over.
        let again = lab.reactor.listen(&bound).await.expect("listens again");
        let reactor = lab.reactor.clone();
        let connecting = lab
            .reactor
            .spawn(async move { reactor.connect(&bound).await });
        again.accept().await.expect("accepts");
        connecting.await.expect("connects");
    }
}

async fn listening_waits_for_the_one_before_to_let_go(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone()] {
        let before = lab.reactor.listen(&address).await.expect("listens");
        let bound = before.local_address();
        let reactor = lab.reactor.clone();
        let next = lab
            .reactor
            .spawn(async move { reactor.listen(&bound).await });
        lab.reactor.sleep(Duration::from_millis(100)).await;
        drop(before);
        let next = next.await;
        assert!(next.is_ok(), "{address}: {next:?}");
    }
}

async fn accepts_in_turn(lab: Lab) {
    let listener = lab.reactor.listen(&lab.tcp).await.expect("listens");
    let address = listener.local_address();
    let Address::Tcp(bound) = &address else {
        panic!("bound to {address}");
    };
    assert_ne!(bound.port(), 0);
    for _ in 0..10 {
        let client = lab.reactor.connect(&address).await.expect("connects");
        let server = listener.accept().await.expect("accepts");
        client
            .send(vec![bytes(&lab.reactor, b"hi")])
            .await
            .expect("sends");
        assert_eq!(receive(&lab.reactor, &server, 2).await, b"hi");
    }
}

async fn dropped_accept_loses_nothing_later(lab: Lab) {
    let listener = lab.reactor.listen(&lab.tcp).await.expect("listens");
    let address = listener.local_address();
    for _ in 0..3 {
        let waited = lab
            .reactor
            .timeout(Duration::from_millis(5), listener.accept())
            .await;
        assert!(waited.is_err());
    }
    let _client = lab.reactor.connect(&address).await.expect("connects");
    listener.accept().await.expect("accepts");
}

async fn dropped_receive_is_safe(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let (client, server) = lab.pair(&address).await;
        for round in 0..10 {
            let receiving = server.recv(lab.reactor.buffer(4096));
            let waited = lab
                .reactor
                .timeout(Duration::from_millis(2), receiving)
                .await;
            assert!(
                waited.is_err(),
                "{address}: nothing was sent in round {round}"
            );
        }
        // Nothing had arrived when they were dropped, so nothing is lost.
        lab.reactor.sleep(Duration::from_millis(10)).await;
        client
            .send(vec![bytes(&lab.reactor, b"still here")])
            .await
            .expect("sends");
        assert_eq!(receive(&lab.reactor, &server, 10).await, b"still here");
    }
}

async fn dropped_connect_is_safe(lab: Lab) {
    let listener = lab.reactor.listen(&lab.tcp).await.expect("listens");
    let address = listener.local_address();
    for _ in 0..10 {
        let connecting = lab.reactor.connect(&address);
        let _ = lab.reactor.timeout(Duration::ZERO, connecting).await;
    }
    lab.reactor.sleep(Duration::from_millis(20)).await;
}

async fn many_connections(lab: Lab) {
    let listener = lab.reactor.listen(&lab.tcp).await.expect("listens");
    let address = listener.local_address();
    let reactor = lab.reactor.clone();
    let serving = lab.reactor.spawn(async move {
        let mut tasks = Vec::new();
        for _ in 0..100 {
            let stream = listener.accept().await.expect("accepts");
            let inner = reactor.clone();
            tasks.push(reactor.spawn(async move {
                let heard = receive(&inner, &stream, 8).await;
                stream
                    .send(vec![bytes(&inner, &heard)])
                    .await
                    .expect("sends");
                expect_end(&inner, &stream).await;
            }));
        }
        join_all(tasks).await;
    });
    let clients = (0..100u64).map(|index| {
        let (reactor, address) = (lab.reactor.clone(), address.clone());
        lab.reactor.spawn(async move {
            let stream = reactor.connect(&address).await.expect("connects");
            let word = index.to_le_bytes();
            stream
                .send(vec![bytes(&reactor, &word)])
                .await
                .expect("sends");
            assert_eq!(receive(&reactor, &stream, 8).await, word);
        })
    });
    join_all(clients).await;
    serving.await;
}

async fn stream_survives_detach_and_adopt(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone()] {
        let (client, server) = lab.pair(&address).await;
        client
            .send(vec![bytes(&lab.reactor, b"ab")])
            .await
            .expect("sends");
        assert_eq!(receive(&lab.reactor, &server, 1).await, b"a");
        let left = server.clone();
        let server = lab.reactor.adopt(server.detach());
        assert_eq!(receive(&lab.reactor, &server, 1).await, b"b");
        server
            .send(vec![bytes(&lab.reactor, b"c")])
            .await
            .expect("sends");
        assert_eq!(receive(&lab.reactor, &client, 1).await, b"c");
        let sent = left.send(vec![bytes(&lab.reactor, b"x")]).await;
        assert_eq!(sent, Err(NetError::Shutdown), "the old handle is of no use");
        drop(server);
        expect_end(&lab.reactor, &client).await;
    }
}

async fn peers_have_names(lab: Lab) {
    for address in [lab.tcp.clone(), lab.unix.clone(), local_address()] {
        let (client, server) = lab.pair(&address).await;
        assert!(!client.peer().is_empty() && !server.peer().is_empty());
    }
}

async fn local_values_pass_by_pointer(lab: Lab) {
    let listener = local::listen::<SharedBuffer>(&lab.reactor, "frames").expect("listens");
    let client = local::connect::<SharedBuffer>(&lab.reactor, "frames").expect("connects");
    let server = listener.accept().await.expect("accepts");
    let data = bytes(&lab.reactor, b"by pointer");
    let pointer = data.as_ptr();
    client.sender.send(data).await.expect("sends");
    let got = server.receiver.recv().await.expect("arrives");
    assert_eq!(got.as_ptr(), pointer);
    server.sender.send(got).await.expect("sends");
    drop(server);
    assert!(
        client.receiver.recv().await.is_some(),
        "sent before the end"
    );
    assert!(client.receiver.recv().await.is_none());
    assert!(client.sender.send(bytes(&lab.reactor, b"x")).await.is_err());
}

async fn local_names_are_exclusive(lab: Lab) {
    let listener = local::listen::<u32>(&lab.reactor, "name").expect("listens");
    assert!(local::listen::<u32>(&lab.reactor, "name").is_err());
    // Another type of value is another name space.
    assert!(local::listen::<u64>(&lab.reactor, "name").is_ok());
    assert!(local::connect::<u16>(&lab.reactor, "name").is_err());
    drop(listener);
    assert!(local::connect::<u32>(&lab.reactor, "name").is_err());
    assert!(local::listen::<u32>(&lab.reactor, "name").is_ok());
}
