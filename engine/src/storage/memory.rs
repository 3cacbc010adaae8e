//! The same in memory, for tests and examples.
pub struct MemoryStorage;
