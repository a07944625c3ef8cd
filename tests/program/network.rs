//! A network between a worker and the database that can fail: what a worker does by its own clock alone.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crewline_testkit::{Script, StubReply};

use crate::{
    fan,
    workers::{World, wait_until},
};

/// A way to a server that can fall silent: nothing arrives any more, and nobody is told so.
struct Way {
    is_silent: Arc<AtomicBool>,
    /// The URL through it.
    url: String,
}

impl Way {
    /// A way to the server of `url`.
    fn to(url: &str) -> Self {
        let (before, rest) = url.rsplit_once('@').unwrap();
        let (server, path) = rest.split_once('/').unwrap();
        let server = if server.contains(':') { server.to_owned() } else { format!("{server}:5432") };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{before}@{}/{path}", listener.local_addr().unwrap());
        let is_silent = Arc::new(AtomicBool::new(false));
        let way = Self { is_silent: Arc::clone(&is_silent), url };
        thread::spawn(move || {
            // Both ends stay open as long as the test runs: a closed one would tell the other.
            let mut held = Vec::new();
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&server) else { return };
                carry(&client, &server, &is_silent);
                carry(&server, &client, &is_silent);
                held.push((client, server));
            }
        });
        way
    }

    fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
    }
}

/// Carries bytes one way until the sender has ended.
fn carry(from: &TcpStream, to: &TcpStream, is_silent: &Arc<AtomicBool>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let is_silent = Arc::clone(is_silent);
    thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if !is_silent.load(Ordering::Relaxed) && to.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
        if !is_silent.load(Ordering::Relaxed) {
            // Who is gone needs to be told no more.
            to.shutdown(std::net::Shutdown::Write).ok();
        }
    });
}

#[test]
fn a_worker_that_is_cut_off_stops_by_its_own_clock() {
    const LEASE: Duration = Duration::from_secs(20);
    let script = Script::default().on_call(1, StubReply::hang());
    let Some(mut world) = World::new("cutoff", script) else { return };
    world.serve("0");
    let way = Way::to(&world.database.url);
    let worker = world.start_on(&way.url, &["worker", "--slots", "1"], "20s");
    let run = world.submit(&fan(2));
    wait_until("the call", || world.server.calls() == 1);
    way.fall_silent();
    let cut = Instant::now();
    world.start(&["worker", "--slots", "2"], "5m");
    wait_until("the end of the call", || world.server.hung_up() == 1);
    // The last renewal was before the cut; a tenth of the lease is left for a machine that is slow.
    assert!(cut.elapsed() < LEASE, "it ends before anybody might make it again: {:?}", cut.elapsed());
    assert_eq!(world.server.calls(), 1);
    world.end_leases(worker);
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!(world.server.calls(), 5, "the call that was broken off is made once more");
}
