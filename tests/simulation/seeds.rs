//! Lives in a row.
