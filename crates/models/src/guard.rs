//! The guard of a managed server: the process between crewline and the server, which no `kill -9` gets around.
//!
//! Stage one holds crewline's pipe and ends the server's process group when the pipe closes. Stage two asks the kernel to be killed
//! when stage one dies, then becomes the server. Both are this same program, without an async runtime.
//!
//! A server that speaks on its standard input and output has that pipe for itself. Its guard watches crewline's process instead,
//! and both are in one group, which crewline ends as a whole.
//!
//! **Invariant:** the server runs only while crewline and the guard both do.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getppid, kill_process_group, test_kill_process_group};

use crate::managed::STOP_LIMIT;

/// The hidden subcommand of the guard.
pub const GUARD_COMMAND: &str = "managed-guard";
/// The first word of the guard's second stage, which becomes the server.
const EXEC_WORD: &str = "@exec-under:";
/// The first word of a guard whose command speaks on standard input and output; behind it crewline's process id.
pub(crate) const PIPED_WORD: &str = "@piped-under:";
/// The exit code of a guard whose command can not be run, as shells have it.
pub(crate) const CANNOT_RUN: i32 = 127;

/// How often a guard of a piped server looks whether crewline lives.
const OWNER_LOOK: Duration = Duration::from_millis(200);

/// The hidden subcommand `managed-guard -- COMMAND…`: runs the command in its own process group until standard input closes.
///
/// Takes the words behind `managed-guard`, with or without `--`. Blocks; returns the exit code for the process.
pub fn managed_guard_main(args: Vec<OsString>) -> i32 {
    let mut words = args.into_iter().skip_while(|it| it == "--").collect::<Vec<_>>();
    let Some(first) = words.first() else {
        return fail(&"no command to guard", 2);
    };
    match first.to_str().and_then(|it| it.strip_prefix(EXEC_WORD)).map(str::parse::<i32>) {
        Some(Ok(parent)) => {
            words.remove(0);
            become_server(parent, &words)
        }
        Some(Err(error)) => fail(&error, 2),
        None => match first.to_str().and_then(|it| it.strip_prefix(PIPED_WORD)).map(str::parse::<i32>) {
            Some(Ok(owner)) => {
                words.remove(0);
                watch_piped(owner, &words)
            }
            Some(Err(error)) => fail(&error, 2),
            None => watch(&words),
        },
    }
}

fn fail(message: &dyn std::fmt::Display, code: i32) -> i32 {
    // Standard error is the server's log.
    let _ = writeln!(io::stderr(), "error: {message}");
    code
}

/// Stage two as a command.
fn stage_two(words: &[OsString]) -> io::Result<Command> {
    // Also right when the program was replaced on disk meanwhile.
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.arg(GUARD_COMMAND).arg("--").arg(format!("{EXEC_WORD}{}", std::process::id())).args(words);
    Ok(command)
}

/// Stage one of a server that speaks on standard input and output: start stage two, and end the group when `owner` has ended.
fn watch_piped(owner: i32, words: &[OsString]) -> i32 {
    let child = stage_two(words).and_then(|mut it| it.spawn());
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return fail(&error, CANNOT_RUN),
    };
    let group = rustix::process::getpgrp();
    let is_owned = move || getppid().is_some_and(|it| it.as_raw_nonzero().get() == owner);
    thread::spawn(move || {
        while is_owned() {
            thread::sleep(OWNER_LOOK);
        }
        // Its input is closed by now, which is the sign to end; who does not heed it is ended.
        thread::sleep(STOP_LIMIT);
        let _ = kill_process_group(group, Signal::KILL);
    });
    match child.wait() {
        Ok(status) => {
            // What the server started goes with it, and this guard, whose work is done.
            let _ = kill_process_group(group, Signal::KILL);
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
        }
        Err(error) => fail(&error, 1),
    }
}

/// Stage one: start stage two, and end its group when the pipe closes.
fn watch(words: &[OsString]) -> i32 {
    let child = stage_two(words).and_then(|mut command| command.stdin(Stdio::null()).process_group(0).spawn());
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return fail(&error, CANNOT_RUN),
    };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    thread::spawn(move || {
        let mut byte = [0; 64];
        let mut pipe = io::stdin();
        while matches!(pipe.read(&mut byte), Ok(1..)) {}
        end(group);
    });
    let status = match child.wait() {
        Ok(status) => status,
        Err(error) => return fail(&error, 1),
    };
    // What the server started goes with it.
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn end(group: Option<Pid>) {
    let Some(group) = group else { return };
    let _ = kill_process_group(group, Signal::TERM);
    let started = Instant::now();
    while started.elapsed() < STOP_LIMIT {
        if test_kill_process_group(group).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = kill_process_group(group, Signal::KILL);
}

/// Stage two: die with the guard, then become the server.
fn become_server(parent: i32, words: &[OsString]) -> i32 {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return fail(&error, CANNOT_RUN);
    }
    // The guard may have died before the kernel knew of the wish.
    if getppid().is_none_or(|it| it.as_raw_nonzero().get() != parent) {
        return fail(&"the guard is gone", 1);
    }
    let Some((program, rest)) = words.split_first() else {
        return fail(&"no command to guard", 2);
    };
    let error = Command::new(program).args(rest).exec();
    fail(&format_args!("cannot run `{}`: {error}", program.to_string_lossy()), CANNOT_RUN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_guard_is_refused() {
        assert_eq!(managed_guard_main(vec!["--".into()]), 2);
    }
}
