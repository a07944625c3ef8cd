//! Crewline: models.
