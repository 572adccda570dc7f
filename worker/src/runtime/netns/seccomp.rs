//! The system calls that an instance must not make: those that Docker refuses too, because they reach what no
//! namespace holds apart. The filter is a program for the kernel; making it is pure.

use nix::libc::{
    self, BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, sock_filter,
};

/// Where the kernel shows a filter the call's number, the machine, and the lower half of the first argument.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const THIS_MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const THIS_MACHINE: u32 = 0xc000_00b7;

/// Numbers from here on are calls of the x32 interface, which would go round a list of numbers.
const X32: u32 = 0x4000_0000;

/// `CLONE_NEW*`: processes are made, namespaces are not.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();

/// Calls that get `EPERM`.
const REFUSED: [libc::c_long; 47] = [
    // Namespaces, mounts and roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    // The kernel itself: its code, its clock, its settings.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    // Keys belong to users, not to namespaces.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Large parts of the kernel where most ways out of a sandbox were found.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_kcmp,
    // Where memory lies on the host.
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_get_mempolicy,
    libc::SYS_move_pages,
];

/// Calls that only some machines have and that get `EPERM`.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: [libc::c_long; 2] = [libc::SYS_iopl, libc::SYS_ioperm];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: [libc::c_long; 0] = [];

/// The filter's program.
pub(super) fn program() -> Vec<sock_filter> {
    let mut program = vec![
        load(MACHINE),
        jump(BPF_JEQ, THIS_MACHINE, 1, 0),
        end(SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
        jump(BPF_JGE, X32, 0, 1),
        refuse(libc::ENOSYS),
    ];
    for call in REFUSED.iter().chain(&REFUSED_HERE) {
        program.extend([jump(BPF_JEQ, number(*call), 0, 1), refuse(libc::EPERM)]);
    }
    // Its flags are behind a pointer, where no filter can look; who is told that there is none uses `clone`.
    program.extend([jump(BPF_JEQ, number(libc::SYS_clone3), 0, 1), refuse(libc::ENOSYS)]);
    program.extend([
        jump(BPF_JEQ, number(libc::SYS_clone), 0, 3),
        load(FIRST_ARGUMENT),
        jump(BPF_JSET, NEW_NAMESPACES, 0, 1),
        refuse(libc::EPERM),
        // The accumulator may hold an argument by now.
        load(NUMBER),
        // Sockets to the machine that this one may be a guest of belong to no network namespace.
        jump(BPF_JEQ, number(libc::SYS_socket), 0, 3),
        load(FIRST_ARGUMENT),
        jump(BPF_JEQ, libc::AF_VSOCK.cast_unsigned(), 0, 1),
        refuse(libc::EPERM),
        end(SECCOMP_RET_ALLOW),
    ]);
    program
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("calls have small numbers")
}

fn load(from: u32) -> sock_filter {
    step(BPF_LD | BPF_W | BPF_ABS, from, 0, 0)
}

/// Leaves out `yes` steps when the condition holds and `no` steps when it does not.
fn jump(condition: u32, value: u32, yes: u8, no: u8) -> sock_filter {
    step(BPF_JMP | condition | BPF_K, value, yes, no)
}

fn refuse(errno: i32) -> sock_filter {
    end(SECCOMP_RET_ERRNO | errno.cast_unsigned())
}

fn end(verdict: u32) -> sock_filter {
    step(BPF_RET | BPF_K, verdict, 0, 0)
}

fn step(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("codes are small"), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn verdict(machine: u32, call: u32, argument: u32) -> u32 {
        let program = program();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let code = u32::from(code);
            at += 1;
            let holds = if code == BPF_LD | BPF_W | BPF_ABS {
                accumulator = match k {
                    NUMBER => call,
                    MACHINE => machine,
                    FIRST_ARGUMENT => argument,
                    other => panic!("nothing is shown at {other}"),
                };
                continue;
            } else if code == BPF_RET | BPF_K {
                return k;
            } else if code == BPF_JMP | BPF_JEQ | BPF_K {
                accumulator == k
            } else if code == BPF_JMP | BPF_JGE | BPF_K {
                accumulator >= k
            } else {
                accumulator & k != 0
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    #[test]
    fn what_reaches_beyond_the_instance_is_refused_and_the_rest_is_not() {
        let of = |call, argument| verdict(THIS_MACHINE, number(call), argument);
        let refused = |errno: i32| SECCOMP_RET_ERRNO | errno.cast_unsigned();
        let threads = (libc::CLONE_VM | libc::CLONE_THREAD).cast_unsigned();
        assert_eq!(of(libc::SYS_unshare, 0), refused(libc::EPERM));
        assert_eq!(of(libc::SYS_move_pages, 0), refused(libc::EPERM));
        assert_eq!(of(libc::SYS_clone3, 0), refused(libc::ENOSYS));
        assert_eq!(of(libc::SYS_clone, libc::CLONE_NEWUSER.cast_unsigned()), refused(libc::EPERM));
        assert_eq!(of(libc::SYS_clone, threads), SECCOMP_RET_ALLOW);
        assert_eq!(of(libc::SYS_socket, libc::AF_VSOCK.cast_unsigned()), refused(libc::EPERM));
        assert_eq!(of(libc::SYS_socket, libc::AF_INET.cast_unsigned()), SECCOMP_RET_ALLOW);
        assert_eq!(of(libc::SYS_read, libc::AF_VSOCK.cast_unsigned()), SECCOMP_RET_ALLOW);
        assert_eq!(of(libc::SYS_ptrace, 0), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn there_is_no_way_round_by_another_interface() {
        let x32 = X32 | number(libc::SYS_unshare);
        let refused = SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
        assert_eq!(verdict(THIS_MACHINE, x32, 0), refused);
        assert_eq!(verdict(0x4000_0003, 1, 0), SECCOMP_RET_KILL_PROCESS);
    }
}
