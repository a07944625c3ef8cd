//! The file systems as a command sees them: processes of its own namespace only, and all but its own directories read-only.
//!
//! Landlock judges what is opened; modes, owners, times and attributes are changed by path, past it. A read-only mount refuses
//! these, too.
//!
//! **Invariant:** what is not below a writable directory is read-only for all that comes after, and can not be made writable again
//! by who may not mount.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount},
};

/// What a mount must keep when it is mounted again: the namespace above has a say in these.
const KEPT: [(StatVfsMountFlags, MountFlags); 3] = [
    (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
    (StatVfsMountFlags::NODEV, MountFlags::NODEV),
    (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
];

/// A table of mounts of one's own: the keeper must go on seeing all processes, and this machine its files as they are.
pub(super) fn make_own() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// Shows the processes of this namespace only.
pub(super) fn show_own_processes() -> io::Result<()> {
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
    Ok(())
}

/// Makes everything read-only but `writable` and what is below.
pub(super) fn hold(writable: &[PathBuf]) -> io::Result<()> {
    let mut own = Vec::with_capacity(writable.len());
    for dir in writable {
        let dir = fs::canonicalize(dir)?;
        mount_bind_recursive(&dir, &dir)?;
        own.push(dir);
    }
    for point in mount_points()?.iter().filter(|point| !own.iter().any(|dir| point.starts_with(dir))) {
        match read_only(point) {
            // What is not reached is hidden by another mount, or closed to all but its owner: the command comes there neither.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_only(point: &Path) -> rustix::io::Result<()> {
    let found = statvfs(point)?.f_flag;
    let kept = KEPT.into_iter().filter(|(flag, _)| found.contains(*flag)).map(|(_, flag)| flag);
    mount_remount(point, kept.fold(MountFlags::BIND | MountFlags::RDONLY, |all, flag| all | flag), c"")
}

/// Where something is mounted (proc_pid_mountinfo(5)).
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|it| *it == b'\n').filter_map(|line| line.split(|it| *it == b' ').nth(4)).map(unescaped).collect())
}

/// Blanks, line ends and backslashes are told as three octal digits.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\').and_then(|it| str::from_utf8(it).ok());
        let told = digits.and_then(|it| u8::from_str_radix(it, 8).ok());
        path.push(told.unwrap_or(byte));
        rest = if told.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_they_are_written() {
        for (word, path) in
            [("/", "/"), (r"/a\040b\134c", r"/a b\c"), (r"/end\04", r"/end\04"), (r"/no\999", r"/no\999")]
        {
            assert_eq!(unescaped(word.as_bytes()), Path::new(path), "{word}");
        }
    }
}
