//! tidemill.
