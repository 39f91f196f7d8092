//! Descriptors run out: accepting waits and goes on. A process of its own: limits are its.

use ashlar_proto::Address;
use ashlar_reactor::{Engine, RuntimeOptions, probe_engine, run};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::time::Duration;

#[test]
fn accepting_waits_out_a_lack_of_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("has a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).expect("may lower it");
    for engine in [Engine::Aio, probe_engine(None).0] {
        run(RuntimeOptions::new(engine), |reactor| async move {
            let address = Address::Tcp(([127, 0, 0, 1], 0).into());
            let listener = reactor.listen(&address).await.expect("listens");
            let bound = listener.local_address();
            let client = reactor.connect(&bound).await.expect("connects");
            let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            let accepting = reactor.spawn(async move { listener.accept().await });
            reactor.sleep(Duration::from_millis(300)).await;
            assert!(!accepting.is_finished(), "it neither fails nor spins");
            drop(hoard);
            let server = accepting.await.expect("accepts after all");
            drop(client);
            let (_, result) = server.recv(reactor.buffer(1)).await;
            assert_eq!(result, Ok(0));
        })
        .expect("starts");
    }
}
