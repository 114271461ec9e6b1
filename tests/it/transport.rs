//! The transport against real sockets: scripted servers, TLS, proxies.

mod exchange;
mod faults;
mod server;
