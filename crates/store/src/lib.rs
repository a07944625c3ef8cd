//! Crewline: store.
