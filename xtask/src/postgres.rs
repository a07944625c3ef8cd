//! A PostgreSQL server for tests: the one that is named, one that runs and trusts us, or a private one.
//!
//! **Invariant:** a server that was there is not changed; a private one listens on loopback only, lives in a directory
//! of its own, and is stopped when the tests end.

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::process::{self, Cargo, Failure, find_program, setting};

const PORT: u16 = 5432;
/// Reachable from this machine only, by everything at once.
const OPTIONS: &str = "-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=300";

/// What a private server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Tests: the data is thrown away.
    Test,
    /// Chaos: it is crashed, and must keep what it has acknowledged. The machine is not, so nothing has to reach the disk.
    Chaos,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Test => "test-postgres",
            Self::Chaos => "chaos-postgres",
        }
    }

    fn options(self) -> &'static str {
        match self {
            Self::Test => " -c fsync=off -c synchronous_commit=off -c full_page_writes=off",
            Self::Chaos => " -c fsync=off -c full_page_writes=off",
        }
    }
}

/// A server tests may use; a private one stops when this is dropped.
pub(crate) struct Server {
    /// For `CREWLINE_TEST_POSTGRES`.
    pub(crate) url: String,
    private: Option<Private>,
}

/// A server of our own.
struct Private {
    pg_ctl: PathBuf,
    dir: PathBuf,
    user: Option<User>,
    /// What it is started with.
    options: String,
}

impl Server {
    /// What the chaos program needs to crash the server and start it again; nothing for one that is not ours.
    pub(crate) fn crash_arguments(&self) -> Vec<OsString> {
        let Some(Private { pg_ctl, dir, user, options }) = &self.private else { return Vec::new() };
        let mut arguments: Vec<OsString> = vec!["--cluster".into(), dir.into(), "--pg-ctl".into(), pg_ctl.into()];
        arguments.push(format!("--pg-options={options}").into());
        if let Some(User { uid, gid }) = user {
            arguments.push(format!("--pg-user={uid}:{gid}").into());
        }
        arguments
    }
}

/// The account that runs the server: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(Private { pg_ctl, dir, user, .. }) = &self.private {
            let mut command = as_user(pg_ctl, *user);
            command.arg("-D").arg(dir).args(["-m", "immediate", "stop"]).stdout(Stdio::null());
            // Left running it is found by its directory and replaced next time.
            let _ = command.status();
        }
    }
}

/// Finds or starts a server.
pub(crate) fn prepare(cargo: &Cargo) -> Result<Server, Failure> {
    if let Some(url) = setting("CREWLINE_TEST_POSTGRES") {
        println!("CREWLINE_TEST_POSTGRES is set");
        return Ok(Server { url, private: None });
    }
    if trusts(PORT, "postgres") {
        println!("a server on port {PORT} trusts `postgres`");
        return Ok(Server { url: url(PORT), private: None });
    }
    private(cargo, Purpose::Test)
}

/// Starts a server of our own.
pub(crate) fn private(cargo: &Cargo, purpose: Purpose) -> Result<Server, Failure> {
    if bin("initdb").is_none() {
        install()?;
    }
    let find = |name: &str| bin(name).ok_or_else(|| Failure::Check(missing(name)));
    start(&find("initdb")?, find("pg_ctl")?, &cargo.target, purpose)
}

fn url(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

fn missing(name: &str) -> String {
    format!(
        "PostgreSQL's `{name}` is not here: install the server (Debian: `apt-get install postgresql`), name a running one \
         in CREWLINE_TEST_POSTGRES, or run `cargo xtask test --fast` without it"
    )
}

/// Whether a server lets `user` in without a password: the first message of its protocol (version 3.0) is answered
/// with `R` and a zero.
fn trusts(port: u16, user: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let limit = Duration::from_secs(3);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut message = 196_608_u32.to_be_bytes().to_vec();
        message.extend(format!("user\0{user}\0database\0postgres\0\0").bytes());
        let length = u32::try_from(message.len() + 4).unwrap_or(0);
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&message)?;
        let mut reply = [0; 9];
        stream.read_exact(&mut reply)?;
        Ok(reply == *b"R\0\0\0\x08\0\0\0\0")
    };
    ask().unwrap_or(false)
}

/// A program of the server: where Debian keeps it (newest version first), else on the PATH.
fn bin(name: &str) -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let dirs: Vec<PathBuf> = versions.into_iter().map(|(_, dir)| dir).collect();
    find_program(name, &dirs)
}

fn install() -> Result<(), Failure> {
    if !is_root() || find_program("apt-get", &[]).is_none() {
        return Err(Failure::Check(missing("initdb")));
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        process::run(command)
    };
    apt(&["update", "--quiet"])?;
    apt(&["install", "--yes", "--quiet", "--no-install-recommends", "postgresql"])
}

fn start(initdb: &Path, pg_ctl: PathBuf, target: &Path, purpose: Purpose) -> Result<Server, Failure> {
    let user = if is_root() { Some(account()?) } else { None };
    let dir = place(target, user, purpose)?;
    let port = free_port()?;
    let private = Private { pg_ctl, dir, user, options: format!("-p {port} {OPTIONS}{}", purpose.options()) };
    stop_leftover(&private);
    if private.dir.exists() {
        fs::remove_dir_all(&private.dir).map_err(|error| Failure::File { path: private.dir.clone(), error })?;
    }
    let mut command = as_user(initdb, user);
    command.arg("-D").arg(&private.dir).args([
        "-U",
        "postgres",
        "--auth=trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C",
    ]);
    quietly(command)?;
    let mut command = as_user(&private.pg_ctl, user);
    command.arg("-D").arg(&private.dir).arg("-l").arg(private.dir.join("server.log"));
    command.args(["-w", "-t", "60", "-o", &private.options, "start"]);
    quietly(command)?;
    println!("a private server runs on port {port}");
    Ok(Server { url: url(port), private: Some(private) })
}

/// A server of an earlier chore that was killed.
fn stop_leftover(private: &Private) {
    if private.dir.join("postmaster.pid").exists() {
        let mut command = as_user(&private.pg_ctl, private.user);
        command
            .arg("-D")
            .arg(&private.dir)
            .args(["-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // It fails when the file outlived the server, which is as good.
        let _ = command.status();
    }
}

/// Runs a program whose output matters only when it fails. The server keeps its log to itself, so no pipe stays open.
fn quietly(mut command: Command) -> Result<(), Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().map_err(|error| Failure::Start { program: process::line(&command), error })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Program { program: process::line(&command), code: status.code() })
}

/// The directory: in the target directory, unless the server's account cannot get there.
fn place(target: &Path, user: Option<User>, purpose: Purpose) -> Result<PathBuf, Failure> {
    let name = purpose.name();
    let Some(user) = user else { return Ok(target.join(name)) };
    let inside = target.join(format!("{name}-home"));
    let name = format!("crewline-{name}-{:016x}", fingerprint(target));
    for home in [inside, std::env::temp_dir().join(name)] {
        let ready = fs::create_dir_all(&home).and_then(|()| own(&home, user));
        ready.map_err(|error| Failure::File { path: home.clone(), error })?;
        let mut probe = as_user(Path::new("ls"), Some(user));
        probe.arg(&home).stdout(Stdio::null()).stderr(Stdio::null());
        if probe.status().is_ok_and(|status| status.success()) {
            return Ok(home.join("data"));
        }
    }
    Err(Failure::Check("the server's account can use neither the target directory nor the temporary one".into()))
}

/// Tells checkouts apart (FNV-1a).
fn fingerprint(path: &Path) -> u64 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn free_port() -> Result<u16, Failure> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|error| Failure::Start { program: "a listener".into(), error })
}

/// The account of Debian's package, else `nobody`.
fn account() -> Result<User, Failure> {
    let list = process::read(Path::new("/etc/passwd"))?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| user_of(&list, name))
        .ok_or_else(|| Failure::Check("no account `postgres` to run the server: root may not".into()))
}

/// Reads one line of `passwd(5)`: `name:password:uid:gid:…`.
fn user_of(list: &str, name: &str) -> Option<User> {
    let line = list.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut numbers = line.split(':').skip(2).map(str::parse);
    Some(User { uid: numbers.next()?.ok()?, gid: numbers.next()?.ok()? })
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").stderr(Stdio::null()).output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[cfg(unix)]
fn as_user(program: &Path, user: Option<User>) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    // The caller's directory may be closed to the account.
    command.current_dir("/");
    if let Some(User { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    command
}

#[cfg(not(unix))]
fn as_user(program: &Path, _user: Option<User>) -> Command {
    Command::new(program)
}

#[cfg(unix)]
fn own(dir: &Path, user: User) -> std::io::Result<()> {
    std::os::unix::fs::chown(dir, Some(user.uid), Some(user.gid))
}

#[cfg(not(unix))]
fn own(_dir: &Path, _user: User) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_account_is_read() {
        let list = "root:x:0:0:root:/root:/bin/bash\npostgres:x:105:110:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(user_of(list, "postgres"), Some(User { uid: 105, gid: 110 }));
        assert_eq!(user_of(list, "nobody"), None);
    }

    /// A server that says `reply` to the first message.
    fn fake(reply: &'static [u8]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut start = [0; 8];
            stream.read_exact(&mut start).unwrap();
            let mut rest = vec![0; u32::from_be_bytes(start[..4].try_into().unwrap()) as usize - 8];
            stream.read_exact(&mut rest).unwrap();
            assert_eq!(rest, b"user\0postgres\0database\0postgres\0\0");
            stream.write_all(reply).unwrap();
        });
        port
    }

    #[test]
    fn only_trust_is_trust() {
        assert!(trusts(fake(b"R\0\0\0\x08\0\0\0\0S"), "postgres"));
        assert!(!trusts(fake(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"), "postgres"));
        assert!(!trusts(fake(b"E\0\0\0\x10FATAL....."), "postgres"));
        assert!(!trusts(free_port().unwrap(), "postgres"), "nobody listens");
    }

    #[cfg(unix)]
    #[test]
    fn a_private_server_starts_and_stops() {
        let (Some(initdb), Some(pg_ctl)) = (bin("initdb"), bin("pg_ctl")) else {
            return; // No PostgreSQL on this machine; `prepare` would install it.
        };
        let target = std::env::temp_dir().join(format!("crewline-xtask-{}", std::process::id()));
        let server = start(&initdb, pg_ctl, &target, Purpose::Test).unwrap();
        let port: u16 = server.url.split([':', '/']).nth_back(1).unwrap().parse().unwrap();
        assert!(trusts(port, "postgres"));
        let home = server.private.as_ref().unwrap().dir.parent().unwrap().to_path_buf();
        drop(server);
        assert!(!trusts(port, "postgres"), "it is stopped");
        fs::remove_dir_all(home).unwrap();
        let _ = fs::remove_dir_all(target);
    }
}
