//! Crewline: api.
