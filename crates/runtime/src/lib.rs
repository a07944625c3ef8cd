//! Crewline: runtime.
