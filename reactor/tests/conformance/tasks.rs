//! Tasks and timers.

use super::lab::{Lab, suite};
use ashlar_reactor::future::{Either, join_all, race};
use ashlar_reactor::{Elapsed, Instant};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

suite!(
    task_gives_its_result,
    detached_task_runs_on,
    aborted_task_drops_its_future,
    task_can_abort_itself,
    task_spawned_while_aborting_is_fine,
    yielding_lets_others_run,
    timers_fire_in_order,
    timers_of_the_past_fire_at_once,
    dropped_sleep_does_not_wake,
    timeout_ends_what_is_late,
    timeout_keeps_what_is_in_time,
    race_and_join_all,
    many_tasks,
    many_timers,
    clock_moves_on,
    random_numbers_differ,
);

async fn task_gives_its_result(lab: Lab) {
    let task = lab.reactor.spawn(async { 42 });
    assert!(!task.is_finished(), "tasks start later");
    assert_eq!(task.await, 42);
}

async fn detached_task_runs_on(lab: Lab) {
    let done = Rc::new(Cell::new(false));
    let flag = Rc::clone(&done);
    let reactor = lab.reactor.clone();
    drop(lab.reactor.spawn(async move {
        reactor.sleep(MS).await;
        flag.set(true);
    }));
    lab.reactor.sleep(20 * MS).await;
    assert!(done.get());
}

async fn aborted_task_drops_its_future(lab: Lab) {
    let held = Rc::new(());
    let inside = Rc::clone(&held);
    let task = lab.reactor.spawn(async move {
        let _inside = inside;
        std::future::pending::<()>().await;
    });
    lab.reactor.sleep(MS).await;
    assert_eq!(Rc::strong_count(&held), 2);
    task.abort();
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(task.is_finished());
    task.abort();
}

async fn task_can_abort_itself(lab: Lab) {
    let handle = Rc::new(RefCell::new(None::<ashlar_reactor::Task<()>>));
    let own = Rc::clone(&handle);
    let held = Rc::new(());
    let inside = Rc::clone(&held);
    let reactor = lab.reactor.clone();
    let task = lab.reactor.spawn(async move {
        let _inside = inside;
        own.borrow().as_ref().expect("stored").abort();
        reactor.sleep(MS).await;
        unreachable!("it was aborted");
    });
    *handle.borrow_mut() = Some(task);
    lab.reactor.sleep(10 * MS).await;
    assert_eq!(Rc::strong_count(&held), 1);
    handle.borrow_mut().take();
}

async fn task_spawned_while_aborting_is_fine(lab: Lab) {
    struct SpawnsWhenDropped(ashlar_reactor::Reactor, Rc<Cell<bool>>);
    impl Drop for SpawnsWhenDropped {
        fn drop(&mut self) {
            let flag = Rc::clone(&self.1);
            drop(self.0.spawn(async move { flag.set(true) }));
        }
    }
    let ran = Rc::new(Cell::new(false));
    let bomb = SpawnsWhenDropped(lab.reactor.clone(), Rc::clone(&ran));
    let task = lab.reactor.spawn(async move {
        let _bomb = bomb;
        std::future::pending::<()>().await;
    });
    lab.reactor.yield_now().await;
    task.abort();
    lab.reactor.sleep(MS).await;
    assert!(ran.get());
}

async fn yielding_lets_others_run(lab: Lab) {
    let count = Rc::new(Cell::new(0));
    for _ in 0..3 {
        let count = Rc::clone(&count);
        drop(lab.reactor.spawn(async move { count.set(count.get() + 1) }));
    }
    // Under the simulator the order of ready tasks is drawn: give it some turns.
    for _ in 0..100 {
        lab.reactor.yield_now().await;
    }
    assert_eq!(count.get(), 3);
}

async fn timers_fire_in_order(lab: Lab) {
    let order = Rc::new(RefCell::new(Vec::new()));
    let tasks = [30u32, 10, 20, 0].map(|delay| {
        let order = Rc::clone(&order);
        let reactor = lab.reactor.clone();
        lab.reactor.spawn(async move {
            reactor.sleep(delay * MS).await;
            order.borrow_mut().push(delay);
        })
    });
    join_all(tasks).await;
    assert_eq!(*order.borrow(), [0, 10, 20, 30]);
}

async fn timers_of_the_past_fire_at_once(lab: Lab) {
    lab.reactor.sleep(Duration::ZERO).await;
    lab.reactor.sleep_until(Instant::EPOCH).await;
    let now = lab.reactor.now();
    lab.reactor.sleep_until(now - MS).await;
}

async fn dropped_sleep_does_not_wake(lab: Lab) {
    let result = lab
        .reactor
        .timeout(MS, lab.reactor.sleep(Duration::from_secs(3600)))
        .await;
    assert_eq!(result, Err(Elapsed));
}

async fn timeout_ends_what_is_late(lab: Lab) {
    let start = lab.reactor.now();
    let result = lab
        .reactor
        .timeout(10 * MS, std::future::pending::<()>())
        .await;
    assert_eq!(result, Err(Elapsed));
    let took = lab.reactor.now() - start;
    assert!(took >= 10 * MS, "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

async fn timeout_keeps_what_is_in_time(lab: Lab) {
    let sleep = lab.reactor.sleep(MS);
    assert_eq!(
        lab.reactor.timeout(Duration::from_secs(30), sleep).await,
        Ok(())
    );
}

async fn race_and_join_all(lab: Lab) {
    let slow = lab.reactor.sleep(Duration::from_secs(30));
    let fast = lab.reactor.sleep(MS);
    assert_eq!(race(slow, fast).await, Either::Second(()));
    let all = join_all((0..10u32).map(|index| {
        let reactor = lab.reactor.clone();
        async move {
            reactor.sleep((10 - index) * MS).await;
            index
        }
    }));
    assert_eq!(all.await, (0..10).collect::<Vec<_>>());
}

async fn many_tasks(lab: Lab) {
    let tasks: Vec<_> = (0..10_000u32)
        .map(|index| {
            let reactor = lab.reactor.clone();
            lab.reactor.spawn(async move {
                reactor.yield_now().await;
                index
            })
        })
        .collect();
    let mut sum = 0u64;
    for task in tasks {
        sum += u64::from(task.await);
    }
    assert_eq!(sum, 10_000 * 9_999 / 2);
}

async fn many_timers(lab: Lab) {
    let fired = Rc::new(Cell::new(0u32));
    for index in 0..2_000u32 {
        let reactor = lab.reactor.clone();
        let fired = Rc::clone(&fired);
        drop(lab.reactor.spawn(async move {
            reactor.sleep((index % 37) * MS / 10).await;
            fired.set(fired.get() + 1);
        }));
    }
    lab.reactor.sleep(200 * MS).await;
    assert_eq!(fired.get(), 2_000);
}

async fn clock_moves_on(lab: Lab) {
    let before = lab.reactor.now();
    lab.reactor.sleep(5 * MS).await;
    let passed = lab.reactor.now() - before;
    assert!(
        passed >= 5 * MS && passed < Duration::from_secs(5),
        "{passed:?}"
    );
    assert!(lab.reactor.wall_clock_ms() > 1_500_000_000_000);
}

async fn random_numbers_differ(lab: Lab) {
    let numbers: std::collections::BTreeSet<u64> =
        (0..1000).map(|_| lab.reactor.random_u64()).collect();
    assert_eq!(numbers.len(), 1000);
}
