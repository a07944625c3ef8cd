//! What the machine has, for people.

use std::io;

use crewline_models::runtimes::{Gpu, Host};

use crate::{
    error::Error,
    view::{bytes, clean},
};

/// Looks at the machine, for a moment.
pub(crate) async fn look() -> Result<Host, Error> {
    let looked = tokio::task::spawn_blocking(Host::look).await;
    looked.map_err(|error| Error::System { what: "look at this machine", source: io::Error::other(error) })
}

/// Memory and processors, and each graphics card.
pub(crate) fn lines(host: &Host) -> Vec<String> {
    let machine = format!(
        "{} of {} memory free, {} processors {} % busy",
        bytes(host.memory_free_bytes),
        bytes(host.memory_bytes),
        host.processors,
        host.processor_percent
    );
    [machine].into_iter().chain(host.gpus.iter().map(gpu)).collect()
}

fn gpu(gpu: &Gpu) -> String {
    let Gpu { name, memory_bytes, memory_free_bytes, busy_percent } = gpu;
    let busy = busy_percent.map_or_else(String::new, |it| format!(", {it} % busy"));
    format!("{}: {} of {} memory free{busy}", clean(name), bytes(*memory_free_bytes), bytes(*memory_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_card_has_a_line() {
        let card = Gpu {
            name: "Card\u{7}".into(),
            memory_bytes: 24_000_000_000,
            memory_free_bytes: 500_000_000,
            busy_percent: Some(3),
        };
        let idle = Gpu { name: "Old card".into(), busy_percent: None, ..card.clone() };
        let host = Host {
            memory_bytes: 2_000_000_000,
            memory_free_bytes: 1_000_000_000,
            processors: 2,
            processor_percent: 1.5,
            gpus: vec![card, idle],
        };
        assert_eq!(
            lines(&host),
            [
                "1.0 GB of 2.0 GB memory free, 2 processors 1.5 % busy",
                "Card : 500 MB of 24.0 GB memory free, 3 % busy",
                "Old card: 500 MB of 24.0 GB memory free",
            ]
        );
    }
}
