//! MQTT: devices and brokers as sources.

pub mod topic;

pub use topic::{TopicPattern, TopicPatternError};
