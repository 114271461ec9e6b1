//! The relay, and what stands on both sides of it: fake authorizers of the releases
//! that exist, which are proven against the fake server first.

mod alone;
mod cases;
mod chain;
mod floods;
mod in_step;
mod inside;
mod leaving;
mod link;
mod manner;
mod messages;
mod pedro;
mod process;
mod property;
mod santa;
mod secured;
mod stored;
mod strangers;
mod tls;
mod uploads;
mod upstream;
mod world;
