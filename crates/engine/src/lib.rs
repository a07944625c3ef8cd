//! Crewline: engine.
