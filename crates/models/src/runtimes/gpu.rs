//! NVIDIA graphics cards, as their driver's library (NVML) tells. It is loaded where it is found, and asked for nothing else.
//!
//! **Invariant:** without a driver there are no cards, and no error either.

use std::{sync::mpsc, thread, time::Duration};

use nvml_wrapper::{Nvml, NvmlBuilder, error::NvmlError};
use serde::Serialize;

/// How long a driver may take: one that hangs must not hold up what else is told.
const LIMIT: Duration = Duration::from_secs(3);
/// Cards that are told of.
const CARDS_MAX: u32 = 64;

/// A graphics card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of it that a model could take.
    pub memory_free_bytes: u64,
    /// How busy it is; none where the driver does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy_percent: Option<u32>,
}

/// The cards of this machine. Blocks.
pub(super) fn look() -> Vec<Gpu> {
    let (to, from) = mpsc::sync_channel(1);
    let look = move || {
        // It fails only when nobody waits any more.
        let _ = to.send(cards(&Nvml::builder()));
    };
    match thread::Builder::new().name("graphics cards".to_owned()).spawn(look) {
        Ok(_) => from.recv_timeout(LIMIT).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// The cards that a driver knows, but for those that do not answer.
fn cards(driver: &NvmlBuilder<'_>) -> Vec<Gpu> {
    let Ok(nvml) = driver.init() else { return Vec::new() };
    let count = nvml.device_count().unwrap_or(0).min(CARDS_MAX);
    (0..count)
        .filter_map(|place| match card(&nvml, place) {
            Ok(card) => Some(card),
            Err(error) => {
                tracing::debug!(place, %error, "a graphics card does not say what it has");
                None
            }
        })
        .collect()
}

fn card(nvml: &Nvml, place: u32) -> Result<Gpu, NvmlError> {
    let card = nvml.device_by_index(place)?;
    let memory = card.memory_info()?;
    Ok(Gpu {
        name: card.name()?,
        memory_bytes: memory.total,
        memory_free_bytes: memory.free,
        busy_percent: card.utilization_rates().ok().map(|it| it.gpu),
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A driver with three cards: one that says all, one that does not say how busy it is, one that does not answer.
    const DRIVER: &str = r#"
        #include <string.h>
        typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
        typedef struct { unsigned gpu, memory; } utilization;
        static int cards[3] = {0, 1, 2};
        int nvmlInit_v2(void) { return 0; }
        int nvmlShutdown(void) { return 0; }
        int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned place, int **card) { *card = &cards[place]; return 0; }
        int nvmlDeviceGetName(int *card, char *name, unsigned length) {
            strncpy(name, *card ? "Small Card" : "Large Card", length);
            return 0;
        }
        int nvmlDeviceGetMemoryInfo_v2(int *card, memory *it) {
            if (*card == 2) return 15;
            if (it->version != (sizeof(memory) | 2 << 24)) return 25;
            it->total = 24000000000ull >> *card; it->reserved = 1000; it->used = 4000; it->free = it->total - 5000;
            return 0;
        }
        int nvmlDeviceGetUtilizationRates(int *card, utilization *it) { it->gpu = 37; it->memory = 5; return *card ? 3 : 0; }
    "#;

    #[test]
    fn cards_are_told_as_their_driver_knows_them() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("driver.c"), folder.path().join("driver.so"));
        std::fs::write(&source, DRIVER).unwrap();
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
        assert!(made.success());
        let card = |name: &str, memory_bytes, busy_percent| Gpu {
            name: name.to_owned(),
            memory_bytes,
            memory_free_bytes: memory_bytes - 5_000,
            busy_percent,
        };
        let expected = [card("Large Card", 24_000_000_000, Some(37)), card("Small Card", 12_000_000_000, None)];
        assert_eq!(cards(Nvml::builder().lib_path(library.as_os_str())), expected);
    }

    #[test]
    fn without_a_driver_there_are_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cards(Nvml::builder().lib_path(folder.path().join("nothing.so").as_os_str())), []);
    }
}
