//! The transport against real sockets: scripted servers, TLS, proxies.

mod alone;
mod exchange;
mod exchanges;
mod failures;
mod faults;
mod http2;
#[cfg(target_os = "linux")]
mod memory;
pub(crate) mod pki;
pub(crate) mod proxies;
mod secrets;
pub(crate) mod server;
mod tls;
#[cfg(all(feature = "harness", target_os = "linux"))]
mod tls_proxies;
mod uploads;
