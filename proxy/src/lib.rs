//! The daemon: `watch → state → plan → diff → commit`.

pub mod config;
pub mod conflist;
pub mod connections;
pub mod health;
pub mod kept;
pub mod listeners;
pub mod localhost;
pub mod metrics;
pub mod objects;
pub mod plan;
pub mod predecessor;
pub mod service_port;
pub mod sole;
pub mod state;
pub mod surroundings;
pub mod sync;
pub mod watch;
pub mod web;
