//! The relay, and what stands on both sides of it: fake authorizers of the releases
//! that exist, which are proven against the fake server first.

mod alone;
mod chain;
mod in_step;
mod link;
mod messages;
mod pedro;
mod process;
mod santa;
mod stored;
mod tls;
mod uploads;
mod upstream;
