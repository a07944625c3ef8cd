# What a confined command must not reach: a process of the same user that has a secret in its environment, in an open file and in
# shared memory, and listens at sockets. It ends when its standard input does.
use strict;
use warnings;
use IPC::SysV qw(IPC_CREAT IPC_RMID);
use Socket;

my ($dir) = @ARGV;
my $secret = "$dir/secret.txt";
open my $open, '<', $secret or die "$secret: $!";
my $segment = shmget($$, 64, IPC_CREAT | 0600) // die "shared memory: $!";
shmwrite $segment, 'top-secret', 0, 10 or die "shared memory: $!";
my %sockets = (stream => [SOCK_STREAM, "$dir/stream"], datagram => [SOCK_DGRAM, "$dir/datagram"], abstract => [SOCK_STREAM, "\0crewline-$$"]);
for my $name (sort keys %sockets) {
    my ($kind, $path) = @{$sockets{$name}};
    socket $sockets{$name}[2], AF_UNIX, $kind, 0 or die "$name: $!";
    bind $sockets{$name}[2], pack_sockaddr_un($path) or die "$name: $!";
    listen $sockets{$name}[2], 4 if $kind == SOCK_STREAM;
}
$SIG{USR1} = 'IGNORE';
$| = 1;
print "ready\n";
my @rest = <STDIN>;
shmctl $segment, IPC_RMID, 0;
