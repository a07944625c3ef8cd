# Tries to reach what is outside of a command's confinement, and prints a line for each thing that it did reach. It does no harm
# where nothing confines it: what could do some is asked for in a way that the kernel refuses for another reason than a right.
use strict;
use warnings;
use Errno qw(EPERM ENOSYS);
use Socket;
require 'syscall.ph';

my ($dir, $victim, $port) = @ARGV;
my $secret = "$dir/secret.txt";
my $home = (getpwuid $<)[7];

sub reached { print "$_[0]\n" }
sub try { my ($name, $work) = @_; reached($name) if eval { $work->() } }
sub opens { my ($path, $how) = @_; open my $file, $how // '<', $path }
sub holds { my ($path) = @_; open my $file, '<', $path or return; local $/; (<$file> // '') =~ /top-secret/ }
sub calls { my ($name, @args) = @_; no strict 'refs'; syscall(&{"SYS_$name"}(), @args) >= 0 }
sub asks { calls(@_) || ($! != EPERM && $! != ENOSYS) }

# Files, by all ways to them.
try read => sub { holds($secret) };
try write => sub { opens($secret, '>>') };
try link => sub { link $secret, 'hard' };
try rename => sub { rename $secret, "$dir/renamed" and rename "$dir/renamed", $secret };
try make => sub { opens("$dir/made", '>') and unlink "$dir/made" };
try directory => sub { mkdir "$dir/made" and rmdir "$dir/made" };
try list => sub { opendir my $list, $dir };
try root => sub { holds("/proc/self/root$secret") };
try shadow => sub { opens('/etc/shadow') };
try home => sub { opendir my $list, $home };
# What is changed without opening.
try mode => sub { chmod 0600, $secret };
try owner => sub { chown $<, -1, $secret };
try times => sub { utime 1, 1, $secret };
try attribute => sub { calls('setxattr', $secret, 'user.crewline', 'x', 1, 0) };
# Files that somebody left open.
try inherited => sub { grep { (readlink "/proc/self/fd/$_" // '') eq $secret } 3 .. 63 };
# Other processes.
try environment => sub { grep { holds($_) } glob '/proc/[0-9]*/environ' };
try memory => sub { opens("/proc/$victim/mem") };
try files_of => sub { grep { (readlink // '') eq $secret } glob "/proc/$victim/fd/*" };
try root_of => sub { holds("/proc/$victim/root$secret") };
try signal => sub { kill 'USR1', $victim };
try trace => sub { asks('ptrace', -1, $victim + 0, 0, 0) };
try read_memory => sub { asks('process_vm_readv', $victim + 0, 0, 0, 0, 0, 0) };
try take_file => sub {
    my $process = syscall(&SYS_pidfd_open(), $victim + 0, 0);
    $process >= 0 && asks('pidfd_getfd', $process, 0, 0);
};
try limits => sub { calls('prlimit64', $victim + 0, 7, 0, my $room = ' ' x 16) };
try shared_memory => sub { my $segment = shmget($victim, 0, 0); defined $segment && shmread $segment, my $read, 0, 10 };
# Services.
sub connects { my ($path) = @_; socket(my $to, AF_UNIX, SOCK_STREAM, 0) or return; connect $to, pack_sockaddr_un($path) }
try stream => sub { connects("$dir/stream") };
try abstract => sub { connects("\0crewline-$victim") };
for my $kind (SOCK_DGRAM, SOCK_RAW) {
    try datagram => sub {
        socketpair(my $one, my $two, AF_UNIX, $kind, 0) or return;
        send $one, 'x', 0, pack_sockaddr_un("$dir/datagram");
    };
}
try service => sub { grep { -S && connects($_) } glob '/run/* /run/*/* /tmp/* /tmp/*/*' };
try server => sub {
    socket(my $to, AF_INET, SOCK_STREAM, 0) or return;
    connect $to, pack_sockaddr_in($port, INADDR_LOOPBACK);
};
# Kinds of sockets: AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_BLUETOOTH, AF_ALG, AF_VSOCK, AF_XDP.
for my $family (2, 10, 16, 17, 31, 38, 40, 44) {
    try "socket_$family" => sub { grep { socket(my $one, $family, $_, 0) } SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET };
}
# The kernel.
try io_uring => sub { asks('io_uring_setup', 0, 0) };
try key => sub { asks('keyctl', 0, -3, 0) };
try add_key => sub { asks('add_key', 0, 0, 0, 0, 0) };
try unshare => sub { asks('unshare', 0) };
try namespace => sub { opens("/proc/$victim/ns/net") };
try setns => sub { asks('setns', -1, 0) };
try mount => sub { asks('mount', 0, 0, 0, 0, 0) };
try unmount => sub { asks('umount2', 0, 0) };
try chroot => sub { asks('chroot', 0) };
try bpf => sub { asks('bpf', -1, 0, 0) };
try events => sub { asks('perf_event_open', 0, 0, -1, -1, 0) };
try faults => sub { asks('userfaultfd', -1) };
try log => sub { asks('syslog', -1, 0, 0) };
try name => sub { asks('sethostname', 0, -1) };
try clock => sub { asks('settimeofday', 0, 0) };
try device => sub { grep { opens($_) } qw(/proc/kcore /dev/mem /dev/kmsg) };
try setting => sub { grep { opens($_, '>>') } qw(/proc/sysrq-trigger /proc/sys/kernel/panic /proc/self/oom_score_adj) };
try terminal => sub { grep { opens($_, '+<') } qw(/dev/tty /dev/ptmx) };
