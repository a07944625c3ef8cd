//! Crewline: testkit.
