//! What a command may not ask of the kernel: networks, other processes, mounts, the machine.
//!
//! A list of what is refused, not of what is allowed: compilers, interpreters and test runners must work. Files are Landlock's.
//!
//! **Invariant:** a call that is refused fails with an error; it does not kill, so that programs go on where they can.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use super::order::Network;

/// Never needed by a program that is built or tested.
const REFUSED: [i64; 53] = [
    // Requests that are made by the kernel itself, past this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Files by other ways than their path.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_syslog,
    libc::SYS_lookup_dcookie,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_personality,
];
/// Flags of `clone` that make namespaces.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];
/// The part of a socket's kind that is not a flag.
const SOCKET_KINDS: u64 = 0xf;
/// The second numbering of calls that some kernels take on x86-64.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERING: Option<i64> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const OTHER_NUMBERING: Option<i64> = None;

/// Applies the filter to this process and all it starts.
pub(super) fn apply(network: Network) -> io::Result<()> {
    // Its flags are in memory, where a filter can not look; programs fall back to `clone`.
    let unknown = filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?;
    let refused = filter(rules(network)?, libc::EPERM)?;
    apply_filter(&unknown).map_err(io::Error::other)?;
    apply_filter(&refused).map_err(io::Error::other)
}

fn rules(network: Network) -> io::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    let makes_namespace = NAMESPACES.into_iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        when(vec![condition(0, SeccompCmpOp::MaskedEq(flag), flag)?])
    });
    rules.insert(libc::SYS_clone, makes_namespace.collect::<io::Result<_>>()?);
    // Sockets of files are refused in either case: at the other end may be a service of this machine that does as it is told.
    let allowed: &[i32] = match network {
        Network::None => &[],
        Network::Loopback => &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK],
        Network::Host => &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_UNIX],
    };
    let others = allowed.iter().map(|&family| condition(0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs())));
    let others: Vec<SeccompCondition> = others.collect::<io::Result<_>>()?;
    rules.insert(libc::SYS_socket, if others.is_empty() { Vec::new() } else { vec![when(others)?] });
    // A pair is for who made it, but one of datagrams can still send to any other socket of a file.
    let mut pairs = vec![when(vec![condition(0, SeccompCmpOp::Ne, u64::from(libc::AF_UNIX.unsigned_abs()))?])?];
    if !allowed.contains(&libc::AF_UNIX) {
        for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
            let kind = u64::from(kind.unsigned_abs());
            pairs.push(when(vec![condition(1, SeccompCmpOp::MaskedEq(SOCKET_KINDS), kind)?])?);
        }
    }
    rules.insert(libc::SYS_socketpair, pairs);
    if let Some(bit) = OTHER_NUMBERING {
        let again: Vec<_> = rules.keys().map(|call| (call | bit, Vec::new())).collect();
        rules.extend(again);
        // `ptrace` has a number of its own there (521).
        rules.insert(bit + 521, Vec::new());
    }
    Ok(rules)
}

fn condition(index: u8, operator: SeccompCmpOp, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value).map_err(io::Error::other)
}

fn when(conditions: Vec<SeccompCondition>) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(io::Error::other)
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> io::Result<BpfProgram> {
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let machine = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, machine).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}
