//! A simulated job says the same as a real one, and says it again for the same seed.
