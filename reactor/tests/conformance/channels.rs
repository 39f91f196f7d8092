//! Channels, notifications and permits between tasks.

use super::lab::{Lab, suite};
use ashlar_reactor::channel::{Closed, Notify, Semaphore, TrySendError, bounded, oneshot};
use ashlar_reactor::future::join_all;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

suite!(
    values_arrive_in_order,
    full_channel_pushes_back,
    closed_channel_drains,
    dropped_receiver_fails_the_sender,
    dropped_waiters_pass_their_turn,
    oneshot_gives_one_value,
    notify_wakes_one_and_all,
    notification_is_kept_for_the_next,
    permits_are_fair,
    dropped_acquire_passes_its_turn,
);

const MS: Duration = Duration::from_millis(1);

async fn values_arrive_in_order(lab: Lab) {
    let (sender, receiver) = bounded(3);
    let sending = lab.reactor.spawn(async move {
        for value in 0..100 {
            sender.send(value).await.expect("sends");
        }
    });
    for value in 0..100 {
        assert_eq!(receiver.recv().await, Some(value));
    }
    assert_eq!(receiver.recv().await, None);
    sending.await;
}

async fn full_channel_pushes_back(lab: Lab) {
    let (sender, receiver) = bounded(2);
    sender.try_send(1).expect("room");
    sender.try_send(2).expect("room");
    assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
    let late = sender.clone();
    let sending = lab.reactor.spawn(async move { late.send(3).await });
    lab.reactor.sleep(MS).await;
    assert!(!sending.is_finished());
    assert_eq!(receiver.try_recv(), Some(1));
    // The waiting one is before us.
    assert_eq!(sender.try_send(4), Err(TrySendError::Full(4)));
    sending.await.expect("sends");
    assert_eq!(
        (receiver.try_recv(), receiver.try_recv()),
        (Some(2), Some(3))
    );
    assert_eq!(receiver.try_recv(), None);
}

async fn closed_channel_drains(_lab: Lab) {
    let (sender, receiver) = bounded(2);
    sender.send(1).await.expect("sends");
    sender.close();
    assert_eq!(sender.send(2).await, Err(Closed));
    assert_eq!(receiver.recv().await, Some(1));
    assert_eq!(receiver.recv().await, None);
}

async fn dropped_receiver_fails_the_sender(lab: Lab) {
    let (sender, receiver) = bounded(1);
    sender.send(1).await.expect("sends");
    let waiting = lab.reactor.spawn(async move { sender.send(2).await });
    lab.reactor.sleep(MS).await;
    drop(receiver);
    assert_eq!(waiting.await, Err(Closed));
}

async fn dropped_waiters_pass_their_turn(lab: Lab) {
    let (sender, receiver) = bounded(1);
    sender.send(0).await.expect("sends");
    let tasks: Vec<_> = (1..=3)
        .map(|value| {
            let sender = sender.clone();
            lab.reactor.spawn(async move { sender.send(value).await })
        })
        .collect();
    lab.reactor.sleep(MS).await;
    assert_eq!(receiver.recv().await, Some(0));
    tasks[0].abort();
    tasks[1].abort();
    lab.reactor.sleep(MS).await;
    let got = lab.reactor.timeout(100 * MS, receiver.recv()).await;
    assert!(matches!(got, Ok(Some(_))), "{got:?}");
    // Receivers alike.
    let receivers: Vec<_> = (0..2).map(|_| Rc::new(())).collect();
    drop(receivers);
    let receiver = Rc::new(receiver);
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let receiver = Rc::clone(&receiver);
            lab.reactor.spawn(async move { receiver.recv().await })
        })
        .collect();
    lab.reactor.sleep(MS).await;
    let finished = tasks.iter().filter(|task| task.is_finished()).count();
    let waiting: Vec<_> = tasks
        .into_iter()
        .filter(|task| !task.is_finished())
        .collect();
    assert!(finished <= 1 && !waiting.is_empty());
    sender.try_send(9).expect("room");
    waiting[0].abort();
    if waiting.len() > 1 {
        lab.reactor.sleep(MS).await;
        assert!(waiting[1].is_finished());
    }
}

async fn oneshot_gives_one_value(lab: Lab) {
    let (sender, receiver) = oneshot();
    let waiting = lab.reactor.spawn(receiver);
    lab.reactor.sleep(MS).await;
    sender.send(5).expect("receiver waits");
    assert_eq!(waiting.await, Ok(5));
    let (sender, receiver) = oneshot::<u32>();
    drop(sender);
    assert_eq!(receiver.await, Err(Closed));
    let (sender, receiver) = oneshot();
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.send(6), Err(6));
}

async fn notify_wakes_one_and_all(lab: Lab) {
    let notify = Notify::new();
    let woken = Rc::new(Cell::new(0));
    for _ in 0..5 {
        let (notify, woken) = (notify.clone(), Rc::clone(&woken));
        drop(lab.reactor.spawn(async move {
            notify.notified().await;
            woken.set(woken.get() + 1);
        }));
    }
    lab.reactor.sleep(MS).await;
    notify.notify_one();
    lab.reactor.sleep(MS).await;
    assert_eq!(woken.get(), 1);
    notify.notify_all();
    lab.reactor.sleep(MS).await;
    assert_eq!(woken.get(), 5);
}

async fn notification_is_kept_for_the_next(lab: Lab) {
    let notify = Notify::new();
    notify.notify_one();
    notify.notify_one();
    notify.notified().await;
    let second = lab.reactor.timeout(MS, notify.notified()).await;
    assert!(second.is_err(), "one is kept, not two");
    // One that is dropped after it was told passes it on.
    let (first, other) = (notify.clone(), notify.clone());
    let first = lab.reactor.spawn(async move { first.notified().await });
    lab.reactor.sleep(MS).await;
    let other = lab.reactor.spawn(async move { other.notified().await });
    lab.reactor.sleep(MS).await;
    notify.notify_one();
    first.abort();
    let told = lab.reactor.timeout(100 * MS, other).await;
    assert_eq!(told, Ok(()));
}

async fn permits_are_fair(lab: Lab) {
    let semaphore = Semaphore::new(3);
    let two = semaphore.acquire(2).await;
    assert_eq!(semaphore.free(), 1);
    let large = semaphore.clone();
    let large = lab.reactor.spawn(async move { large.acquire(3).await });
    lab.reactor.sleep(MS).await;
    // One is free, but the large one waits for it.
    assert!(semaphore.try_acquire(1).is_none());
    drop(two);
    let permit = large.await;
    assert_eq!((permit.permits(), semaphore.free()), (3, 0));
    drop(permit);
    assert_eq!(semaphore.free(), 3);
    let peak = Rc::new(Cell::new((0, 0)));
    let tasks = (0..20).map(|_| {
        let (semaphore, reactor, peak) = (semaphore.clone(), lab.reactor.clone(), Rc::clone(&peak));
        lab.reactor.spawn(async move {
            let _permit = semaphore.acquire(1).await;
            let (now, max) = peak.get();
            peak.set((now + 1, max.max(now + 1)));
            reactor.sleep(MS / 10).await;
            let (now, max) = peak.get();
            peak.set((now - 1, max));
        })
    });
    join_all(tasks).await;
    assert_eq!(peak.get(), (0, 3));
}

async fn dropped_acquire_passes_its_turn(lab: Lab) {
    let semaphore = Semaphore::new(1);
    let held = semaphore.acquire(1).await;
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let semaphore = semaphore.clone();
            lab.reactor
                .spawn(async move { drop(semaphore.acquire(1).await) })
        })
        .collect();
    lab.reactor.sleep(MS).await;
    drop(held);
    tasks[0].abort();
    lab.reactor.sleep(MS).await;
    assert!(tasks[1].is_finished());
    assert_eq!(semaphore.free(), 1);
}
