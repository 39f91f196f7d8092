//! Between threads: real drivers only.

use super::lab::{Lab, suite};
use ashlar_proto::Address;
use ashlar_reactor::channel::{TrySendError, remote};
use ashlar_reactor::{DetachedStream, Engine, Reactor, RuntimeOptions, probe_engine, run};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

suite!(real:
    value_from_a_thread_wakes_a_sleeping_reactor,
    thread_blocks_until_there_is_room,
    thread_blocks_until_a_value_comes,
    closing_wakes_blocked_threads,
    remote_work_runs_on_the_reactor,
    remote_of_a_stopped_reactor_refuses,
    task_is_woken_from_another_thread,
    many_threads_many_values,
    stream_moves_to_another_reactor,
    peer_that_ends_its_direction_still_hears,
    panic_in_a_task_ends_the_run,
    idle_reactor_costs_no_cpu,
);

/// How long a thread waits so that the reactor has surely gone to sleep.
const NAP: Duration = Duration::from_millis(100);

async fn value_from_a_thread_wakes_a_sleeping_reactor(_lab: Lab) {
    let (sender, receiver) = remote::bounded(1);
    let thread = thread::spawn(move || {
        for value in 0..5 {
            thread::sleep(NAP / 5);
            sender.send_blocking(value).expect("sends");
        }
    });
    for value in 0..5 {
        assert_eq!(receiver.recv().await, Some(value));
    }
    assert_eq!(receiver.recv().await, None);
    thread.join().expect("thread ends");
}

async fn thread_blocks_until_there_is_room(lab: Lab) {
    let (sender, receiver) = remote::bounded(1);
    sender.try_send(0).expect("room");
    assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
    let thread = thread::spawn(move || sender.send_blocking(1));
    lab.reactor.sleep(NAP).await;
    assert!(!thread.is_finished());
    assert_eq!(receiver.try_recv(), Some(0));
    assert_eq!(receiver.recv().await, Some(1));
    thread.join().expect("thread ends").expect("sends");
}

async fn thread_blocks_until_a_value_comes(lab: Lab) {
    let (sender, receiver) = remote::bounded(1);
    let thread = thread::spawn(move || (receiver.recv_blocking(), receiver.recv_blocking()));
    lab.reactor.sleep(NAP).await;
    sender.send(7).await.expect("sends");
    drop(sender);
    assert_eq!(thread.join().expect("thread ends"), (Some(7), None));
}

async fn closing_wakes_blocked_threads(lab: Lab) {
    let (sender, receiver) = remote::bounded(1);
    sender.try_send(0).expect("room");
    let blocked = sender.clone();
    let thread = thread::spawn(move || blocked.send_blocking(1));
    lab.reactor.sleep(NAP).await;
    drop(receiver);
    assert!(thread.join().expect("thread ends").is_err());
    assert!(sender.is_closed());
}

async fn remote_work_runs_on_the_reactor(lab: Lab) {
    let here = thread::current().id();
    let remote = lab.reactor.remote();
    let (sender, receiver) = remote::bounded(1);
    let thread = thread::spawn(move || {
        thread::sleep(NAP);
        let work = move |reactor: &Reactor| {
            let reactor = reactor.clone();
            let inner = reactor.clone();
            drop(reactor.spawn(async move {
                inner.sleep(Duration::from_millis(1)).await;
                sender.send(thread::current().id()).await.expect("sends");
            }));
        };
        remote.spawn(Box::new(work)).expect("reactor runs");
    });
    assert_eq!(receiver.recv().await, Some(here));
    thread.join().expect("thread ends");
}

async fn remote_of_a_stopped_reactor_refuses(_lab: Lab) {
    let remote = thread::spawn(|| {
        run(RuntimeOptions::new(Engine::Aio), |reactor| async move {
            reactor.remote()
        })
    })
    .join()
    .expect("thread ends")
    .expect("starts");
    assert!(remote.spawn(Box::new(|_| {})).is_err());
}

async fn task_is_woken_from_another_thread(lab: Lab) {
    let mut started = false;
    let mut thread = None;
    let waited = std::future::poll_fn(|context| {
        if started {
            return std::task::Poll::Ready(());
        }
        started = true;
        let waker = context.waker().clone();
        thread = Some(thread::spawn(move || {
            thread::sleep(NAP);
            waker.wake();
        }));
        std::task::Poll::Pending
    });
    lab.reactor
        .timeout(Duration::from_secs(10), waited)
        .await
        .expect("woken");
    thread.expect("started").join().expect("thread ends");
}

async fn many_threads_many_values(_lab: Lab) {
    const EACH: u64 = 20_000;
    let (sender, receiver) = remote::bounded(64);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let sender = sender.clone();
            thread::spawn(move || {
                for value in 0..EACH {
                    sender.send_blocking(value).expect("sends");
                }
            })
        })
        .collect();
    drop(sender);
    let (mut count, mut sum) = (0, 0);
    while let Some(value) = receiver.recv().await {
        count += 1;
        sum += value;
    }
    assert_eq!((count, sum), (4 * EACH, 4 * EACH * (EACH - 1) / 2));
    for thread in threads {
        thread.join().expect("thread ends");
    }
}

async fn stream_moves_to_another_reactor(lab: Lab) {
    for engine in [Engine::Aio, probe_engine(None).0] {
        let (client, server) = lab.pair(&lab.tcp).await;
        let (hand, taken) = remote::bounded::<DetachedStream>(1);
        let thread = thread::spawn(move || {
            run(RuntimeOptions::new(engine), |reactor| async move {
                let stream = reactor.adopt(taken.recv().await.expect("handed over"));
                loop {
                    let (buffer, result) = stream.recv(reactor.buffer(1000)).await;
                    let got = result.expect("receives");
                    if got == 0 {
                        break;
                    }
                    let heard = buffer.freeze().slice(..got);
                    stream.send(vec![heard]).await.expect("sends");
                }
            })
        });
        hand.send(server.detach()).await.expect("thread waits");
        for _ in 0..20 {
            let word = lab.reactor.buffer(8).freeze();
            client.send(vec![word]).await.expect("sends");
            let mut left = 8;
            while left > 0 {
                let (_, result) = client.recv(lab.reactor.buffer(left)).await;
                left -= result.expect("receives");
            }
        }
        drop(client);
        thread.join().expect("thread ends").expect("starts");
    }
}

async fn peer_that_ends_its_direction_still_hears(lab: Lab) {
    let listener = lab.reactor.listen(&lab.tcp).await.expect("listens");
    let Address::Tcp(bound) = listener.local_address() else {
        panic!("listens at TCP");
    };
    let thread = thread::spawn(move || {
        let mut stream = TcpStream::connect(bound).expect("connects");
        stream.write_all(b"question").expect("sends");
        stream
            .shutdown(Shutdown::Write)
            .expect("ends its direction");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receives");
        answer
    });
    let stream = listener.accept().await.expect("accepts");
    let mut heard = 0;
    loop {
        let (_, result) = stream.recv(lab.reactor.buffer(100)).await;
        match result.expect("receives") {
            0 => break,
            got => heard += got,
        }
    }
    assert_eq!(heard, 8);
    lab.reactor.sleep(NAP / 5).await;
    let mut answer = lab.reactor.buffer(6);
    answer.copy_from_slice(b"answer");
    stream.send(vec![answer.freeze()]).await.expect("sends");
    drop(stream);
    assert_eq!(thread.join().expect("thread ends"), "answer");
}

async fn panic_in_a_task_ends_the_run(lab: Lab) {
    for engine in [Engine::Aio, probe_engine(None).0] {
        let thread = thread::spawn(move || {
            run(RuntimeOptions::new(engine), |reactor| async move {
                let inner = reactor.clone();
                let _task = reactor.spawn(async move {
                    inner.yield_now().await;
                    std::panic::resume_unwind(Box::new("on purpose"));
                });
                std::future::pending::<()>().await;
            })
        });
        while !thread.is_finished() {
            lab.reactor.sleep(NAP / 20).await;
        }
        assert!(thread.join().is_err());
    }
}

async fn idle_reactor_costs_no_cpu(lab: Lab) {
    // Timers far apart, as a server at rest has them.
    let before = thread_cpu();
    for _ in 0..10 {
        lab.reactor.sleep(Duration::from_millis(50)).await;
    }
    let used = thread_cpu() - before;
    assert!(
        used < Duration::from_millis(5),
        "idle for 500 ms used {used:?}"
    );
}

fn thread_cpu() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    Duration::from(time.expect("the clock exists"))
}
