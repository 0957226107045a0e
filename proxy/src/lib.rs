//! The daemon: `watch → state → plan → diff → commit`.

pub mod service_port;
