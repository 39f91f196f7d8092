//! Where io_uring is forbidden, as containers forbid it, the probe says so and aio works.

#![allow(
    unsafe_code,
    reason = "a seccomp filter is installed by a system call that takes a pointer"
)]

use ashlar_reactor::{Engine, RuntimeOptions, StartError, probe_engine, run};
use std::time::Duration;

/// Makes io_uring_setup fail with EPERM on this thread, for good.
fn forbid_io_uring() {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let statement = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let number = u32::try_from(libc::SYS_io_uring_setup).expect("small");
    let mut filter = [
        statement(LOAD, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(JUMP_EQUAL, number)
        },
        statement(
            RETURN,
            libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        ),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which is whole, during the call.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn forbidden_io_uring_falls_back_to_aio() {
    forbid_io_uring();
    let (engine, warning) = probe_engine(None);
    assert_eq!(engine, Engine::Aio);
    let warning = warning.expect("says so");
    assert!(warning.contains("io_uring is not available"), "{warning}");
    run(RuntimeOptions::new(engine), |reactor| async move {
        reactor.sleep(Duration::from_millis(1)).await;
    })
    .expect("starts");
    // Who insists on it is told.
    assert_eq!(probe_engine(Some(Engine::IoUring)), (Engine::IoUring, None));
    let insisted = run(RuntimeOptions::new(Engine::IoUring), |_| async {});
    assert!(matches!(insisted, Err(StartError::IoUring { .. })));
}
