//! Values of options that have a form of their own.

pub(crate) mod cors_origin;
pub(crate) mod field_name;
pub mod host_name;
pub(crate) mod http_url;
pub(crate) mod key_file;
pub mod listen;
pub(crate) mod log_filter;
pub(crate) mod nats_name;
pub(crate) mod nats_url;
pub(crate) mod proxy;
pub(crate) mod retain_rule;
pub(crate) mod secret;
