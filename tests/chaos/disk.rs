//! A small disk that can be filled: a tmpfs of a few megabytes, where the system lets us mount one.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Its size: enough for a run and the log that is written ahead, which has up to a thousand pages.
const MEGABYTES: u32 = 24;

/// A mounted disk, unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one at `path`; the error says why that is not possible here.
    pub fn mount(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={MEGABYTES}m,mode=700"), "tmpfs"]).arg(path);
        let output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(Self { path: path.to_owned() });
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// Leaves at most `left` bytes.
    pub fn fill(&self, left: usize) -> io::Result<()> {
        let mut file = File::create(self.filler())?;
        let block = [0u8; 4096];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(left as u64))
    }

    /// Gives the room back.
    pub fn free(&self) -> io::Result<()> {
        match std::fs::remove_file(self.filler()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Keeps what is on it in `to`, for whoever looks for the cause.
    pub fn save(&self, to: &Path) {
        // What cannot be copied is lost; the violation is told all the same.
        let _ = Command::new("cp").arg("-a").arg(&self.path).arg(to).status();
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A lazy unmount never waits for whoever still looks at it.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
