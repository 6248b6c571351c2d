//! The server in containers whose profiles forbid system calls, tried with real filters.

mod support;

use support::server::{fanfare, forbid, run};
use support::{Backend, Server};

const IO_URING: [libc::c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// What Docker's default profile keeps from a container without capabilities, by x86-64's list of calls:
/// everything that it does not list (`profiles/seccomp/default.json` of moby, since Docker 25, which took
/// io_uring from the list). Calls that it allows with some arguments alone are not here.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_BY_DOCKER: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_sysfs,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_uselib,
    libc::SYS_userfaultfd,
    libc::SYS_ustat,
    libc::SYS_vhangup,
];

/// What the default profile of containerd (`RuntimeDefault` of Kubernetes,
/// `contrib/seccomp/seccomp_default.go`) has kept from a container beside that in versions that are still in
/// use: calls that are newer than its list.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_BY_OLD_CONTAINERD: &[libc::c_long] = &[
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_close_range,
    libc::SYS_epoll_pwait2,
    libc::SYS_futex_waitv,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_membarrier,
    libc::SYS_memfd_secret,
    libc::SYS_name_to_handle_at,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    libc::SYS_preadv2,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_pwritev2,
    libc::SYS_rseq,
];

/// What the log says of each fallback.
const SHARED_TABLE: &str = "private descriptor tables cannot be used";
const EPOLL: &str = "io_uring cannot be used";

/// Starts the server with its defaults where these calls are forbidden, expects that it delivers, and that
/// its log has one line for each of these fallbacks.
fn expect_delivery(forbidden: &[libc::c_long], fallbacks: &[&str]) {
    let forbidden: Vec<_> = forbidden.iter().map(|&call| (call, libc::EPERM)).collect();
    expect_delivery_under(&forbidden, fallbacks);
}

/// As [`expect_delivery`], with the error of each call.
fn expect_delivery_under(forbidden: &[(libc::c_long, libc::c_int)], fallbacks: &[&str]) {
    let server = Server::start_forbidden(forbidden, &[]);
    let before = server.sockets_of_main_thread();
    let mut subscribers: Vec<_> = (0..20).map(|_| server.subscribe("topic=a")).collect();
    let is_shared = server.sockets_of_main_thread() >= before + subscribers.len();
    assert_eq!(is_shared, fallbacks.contains(&SHARED_TABLE));
    let id = server.publish("a", "delivered");
    for subscriber in &mut subscribers {
        let event = subscriber.event();
        assert_eq!((event.data.as_str(), &event.id), ("delivered", &id));
    }
    server.expect_health();

    // The line behind those of the fallbacks.
    let log = server.expect_log("memory_at_most");
    for fallback in fallbacks {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(fallback)).collect();
        let [line] = lines[..] else { panic!("one line is to say {fallback:?}:\n{log}") };
        assert!(line.contains("WARN") && line.contains("Operation not permitted"), "{line}");
    }
    assert_eq!(log.matches("WARN").count(), fallbacks.len(), "{log}");
}

/// The server did not start under Docker's default profile.
#[test]
fn the_server_runs_where_unshare_is_forbidden() {
    if Backend::io_uring().is_some() {
        expect_delivery(&[libc::SYS_unshare], &[SHARED_TABLE]);
    }
}

#[test]
fn the_server_runs_where_io_uring_is_forbidden() {
    expect_delivery(&IO_URING, &[EPOLL]);
}

#[test]
fn the_server_runs_where_io_uring_may_be_set_up_and_not_used() {
    expect_delivery(&[libc::SYS_io_uring_enter], &[EPOLL]);
}

#[test]
fn the_server_runs_where_unshare_and_io_uring_are_forbidden() {
    expect_delivery(&[&[libc::SYS_unshare][..], &IO_URING].concat(), &[EPOLL, SHARED_TABLE]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_server_runs_under_the_default_profiles_of_docker_and_kubernetes() {
    // Both pretend that clone3 does not exist, because they cannot look at its arguments: then glibc uses
    // clone.
    let clone3 = [(libc::SYS_clone3, libc::ENOSYS)];
    let forbidden =
        |calls: &[libc::c_long]| calls.iter().map(|&call| (call, libc::EPERM)).collect::<Vec<_>>();
    let docker = [&clone3[..], &forbidden(FORBIDDEN_BY_DOCKER)].concat();
    expect_delivery_under(&docker, &[EPOLL, SHARED_TABLE]);
    let kubernetes = [docker, forbidden(FORBIDDEN_BY_OLD_CONTAINERD)].concat();
    expect_delivery_under(&kubernetes, &[EPOLL, SHARED_TABLE]);
}

#[test]
fn private_tables_that_were_asked_for_by_name_and_are_refused_are_an_error() {
    let mut command = fanfare();
    command.args(["--listen", "127.0.0.1:0", "--descriptor-tables", "private"]);
    forbid(&mut command, &[libc::SYS_unshare]);
    let ran = run(command, "");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("unshare(2)") && ran.stderr.contains("shared"), "{ran:?}");
}
