//! The machine the local models run on.

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::gpu::{self, Gpu};

/// Memory and processors of this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes that a model could take.
    pub memory_free_bytes: u64,
    /// Logical processors.
    pub processors: usize,
    /// How busy they are, in percent of all of them.
    pub processor_percent: f32,
    /// Its NVIDIA graphics cards; none where there is no driver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
}

impl Host {
    /// Looks, for a fifth of a second: how busy a processor is shows over time only. Blocks.
    pub fn look() -> Self {
        let what = RefreshKind::nothing()
            .with_memory(MemoryRefreshKind::nothing().with_ram())
            .with_cpu(CpuRefreshKind::nothing().with_cpu_usage());
        let mut system = System::new_with_specifics(what);
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
        system.refresh_cpu_usage();
        Self {
            memory_bytes: system.total_memory(),
            memory_free_bytes: system.available_memory(),
            processors: system.cpus().len(),
            processor_percent: (system.global_cpu_usage() * 10.0).round() / 10.0,
            gpus: gpu::look(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_memory_and_processors() {
        let host = Host::look();
        assert!(host.memory_bytes > 0 && host.memory_free_bytes <= host.memory_bytes, "{host:?}");
        assert!(host.processors > 0 && (0.0..=100.0).contains(&host.processor_percent), "{host:?}");
    }
}
