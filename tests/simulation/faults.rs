//! An error at any call.
