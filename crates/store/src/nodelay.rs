//! TCP_NODELAY for connections to PostgreSQL. sqlx 0.9.0 does not set it (its issue 4335, mended after that release), so a
//! large batch waits 40 ms for an acknowledgement; this goes with its next release.
//!
//! The driver does not show its socket, so those of this process that lead to the server's port are looked up.

/// Sets it for every connection of this process to `port`. Where that is not possible everything works, only slower.
#[cfg(target_os = "linux")]
pub(crate) fn set(port: u16) {
    use rustix::{
        net::{getpeername, sockopt::set_tcp_nodelay},
        process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
    };

    let (Ok(me), Ok(open)) = (pidfd_open(getpid(), PidfdFlags::empty()), std::fs::read_dir("/proc/self/fd")) else {
        tracing::debug!("connections to the database keep the driver's options");
        return;
    };
    for number in open.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok()) {
        // A number that was closed or given out anew meanwhile is no connection to the server, or one that wants the same.
        let Ok(socket) = pidfd_getfd(&me, number, PidfdGetfdFlags::empty()) else { continue };
        let Ok(Some(peer)) = getpeername(&socket) else { continue };
        if std::net::SocketAddr::try_from(peer).is_ok_and(|it| it.port() == port) {
            let _ = set_tcp_nodelay(&socket, true);
        }
    }
}

/// Elsewhere the driver's options stay.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set(_port: u16) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_connections_to_the_port_are_changed() {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, other) = (listen(), listen());
        let to_server = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let to_other = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        set(server.local_addr().unwrap().port());
        assert!(to_server.nodelay().unwrap());
        assert!(!to_other.nodelay().unwrap());
    }
}
