//! Crewline: memory.
