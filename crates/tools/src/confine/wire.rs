//! How the processes of the helper talk: a socket as standard input, one JSON line each way.
//!
//! **Invariant:** a line is bounded, and a socket that closes without one is an answer, too.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{CONFINE_COMMAND, Stage};

/// Bytes of a line.
const LINE_MAX: u64 = 4 << 20;

/// Standard input as the socket it is.
pub(super) fn standard_input() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Starts a further stage with a socket as its standard input.
pub(super) fn start(stage: Stage) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg(CONFINE_COMMAND)
        .arg(stage.as_str())
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    Ok((child, ours))
}

/// Sends a line.
pub(super) fn send<T: Serialize>(socket: &UnixStream, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut socket = socket;
    socket.write_all(&line)
}

/// Waits for a line; `None` when the other side closed without one.
pub(super) fn receive<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let mut byte = [0];
    let mut socket = socket.take(LINE_MAX);
    // One byte at a time: what follows the line is not ours to take. It happens once for each process.
    while socket.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    if line.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&line)?)) }
}
