//! What happens where system calls are forbidden, with a real filter as containers use it.
#![allow(clippy::unwrap_used)]

mod support;

use fanfare_io::uring::Uring;
use fanfare_io::{Backend, DescriptorTables, Resolved, Waker, table};
use support::*;

/// Makes a system call fail in this thread and those it starts from now on, as container profiles do.
fn forbid(call: libc::c_long, errno: i32) {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        // The system call's number is the first word of `seccomp_data`.
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, call as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the calls, which copy it. It concerns this child process only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

/// Forbids one of the three system calls of io_uring, and expects that the fallback names it.
fn check_refused(call: libc::c_long, name: &str, errno: i32, word: &str) {
    forbid(call, errno);
    let Resolved { backend, fallback } = Backend::Auto.resolve().unwrap();
    assert_eq!(backend, Backend::Epoll);
    let reason = fallback.expect("the operator is told");
    for part in [name, word] {
        assert!(reason.contains(part) && !reason.contains('\n'), "{reason}");
    }

    let error = Backend::IoUring.resolve().unwrap_err();
    assert!(error.to_string().contains("--backend epoll"), "{error}");
    assert!(error.to_string().contains(word), "{error}");

    assert_eq!(Backend::Epoll.resolve().unwrap(), Resolved { backend: Backend::Epoll, fallback: None });
}

fn check_setup_refused(errno: i32, word: &str) {
    check_refused(libc::SYS_io_uring_setup, "io_uring_setup", errno, word);
    assert!(Uring::open(&Waker::new().unwrap()).is_err());
}

#[test]
fn auto_takes_epoll_where_a_filter_forbids_io_uring() {
    in_child("auto_takes_epoll_where_a_filter_forbids_io_uring", || {
        check_setup_refused(libc::EPERM, "seccomp");
    });
}

#[test]
fn auto_takes_epoll_where_a_filter_hides_io_uring() {
    in_child("auto_takes_epoll_where_a_filter_hides_io_uring", || {
        check_setup_refused(libc::ENOSYS, "profile");
    });
}

#[test]
fn auto_takes_epoll_on_an_old_kernel() {
    in_child("auto_takes_epoll_on_an_old_kernel", || check_setup_refused(libc::EINVAL, "6.1"));
}

/// A filter that allowed the setup of a ring and forbade its use was reported as want of memory: the operator
/// was told to raise `ulimit -l`.
#[test]
fn auto_takes_epoll_where_a_filter_forbids_submissions() {
    if without_io_uring() {
        return;
    }
    in_child("auto_takes_epoll_where_a_filter_forbids_submissions", || {
        check_refused(libc::SYS_io_uring_enter, "io_uring_enter", libc::EPERM, "seccomp");
    });
}

#[test]
fn auto_takes_epoll_where_a_filter_hides_submissions() {
    if without_io_uring() {
        return;
    }
    in_child("auto_takes_epoll_where_a_filter_hides_submissions", || {
        check_refused(libc::SYS_io_uring_enter, "io_uring_enter", libc::ENOSYS, "profile");
    });
}

#[test]
fn auto_takes_epoll_where_a_filter_forbids_the_question_for_operations() {
    if without_io_uring() {
        return;
    }
    in_child("auto_takes_epoll_where_a_filter_forbids_the_question_for_operations", || {
        check_refused(libc::SYS_io_uring_register, "io_uring_register", libc::EPERM, "seccomp");
    });
}

#[test]
fn auto_takes_io_uring_where_it_works() {
    if without_io_uring() {
        return;
    }
    let expected = Resolved { backend: Backend::IoUring, fallback: None };
    assert_eq!(Backend::Auto.resolve().unwrap(), expected);
    assert_eq!(Backend::IoUring.resolve().unwrap(), expected);
}

/// Where `close_range` was refused, the thread had left the shared table when the error came, and believed
/// that it had not: an engine that could not start left its listener open in the table of everybody else.
#[test]
fn a_refused_private_table_leaves_the_shared_one() {
    in_child("a_refused_private_table_leaves_the_shared_one", || {
        let opened = std::thread::spawn(|| {
            forbid(libc::SYS_close_range, libc::EPERM);
            // SAFETY: it fails, so that the thread still has the shared table.
            let error = unsafe { table::make_private(&[], &[]) }.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            assert!(!table::is_private());
            std::fs::File::open("/dev/null").unwrap()
        });
        let opened = opened.join().unwrap();
        opened.metadata().expect("what the thread opened is in everybody's table");
    });
}

/// Under Docker's default profile, which forbids `unshare`, no engine started.
fn check_private_table_refused(call: libc::c_long, errno: i32, word: &str) {
    assert_eq!(DescriptorTables::Auto.resolve().unwrap().tables, DescriptorTables::Private);
    forbid(call, errno);
    let resolved = DescriptorTables::Auto.resolve().unwrap();
    assert_eq!(resolved.tables, DescriptorTables::Shared);
    let reason = resolved.fallback.expect("the operator is told");
    for part in ["unshare(2)", "RLIMIT_NOFILE", word] {
        assert!(reason.contains(part) && !reason.contains('\n'), "{reason}");
    }

    let error = DescriptorTables::Private.resolve().unwrap_err().to_string();
    assert!(error.contains("--descriptor-tables shared") && error.contains(word), "{error}");
    assert_eq!(DescriptorTables::Shared.resolve().unwrap().fallback, None);
    assert!(!table::is_private());
}

#[test]
fn auto_takes_the_shared_table_where_a_filter_forbids_to_leave_it() {
    in_child("auto_takes_the_shared_table_where_a_filter_forbids_to_leave_it", || {
        check_private_table_refused(libc::SYS_unshare, libc::EPERM, "Docker");
    });
}

#[test]
fn auto_takes_the_shared_table_where_a_filter_hides_close_range() {
    in_child("auto_takes_the_shared_table_where_a_filter_hides_close_range", || {
        check_private_table_refused(libc::SYS_close_range, libc::ENOSYS, "5.9");
    });
}
