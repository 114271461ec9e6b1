//! The relay: the sync server of this host's own authorizer (contract: RELAY).
//!
//! Santa's daemon takes rules only from its own sync service, which can sync with
//! a server on loopback. The relay is that server, inside the daemon: the real
//! server is *upstream*, the authorizer's sync client *downstream*.
//!
//! - [`plan`] decides what the authorizer is to be sent, [`sessions`] which
//!   request belongs to which delivery and what a postflight acknowledges. Both
//!   are pure.
//! - [`delivery`] reads pages from one moment of the store, [`release`] knows what
//!   a release cannot take.
//! - [`messages`] reads what the authorizer says and writes what it is told.
//! - [`refusals`] notes whose requests were refused.
//! - [`state`] keeps what was acknowledged.
//! - [`leaving`] is how the authorizer is led away from here.
//! - [`profiles`] writes the configuration of both sides.
//! - [`certificates`] makes and renews what TLS needs.

pub mod bounds;
pub mod certificates;
pub mod core;
pub mod delivery;
pub mod leaving;
mod messages;
pub mod nudge;
mod page_prefetch;
pub mod plan;
pub mod profiles;
pub mod refusals;
pub mod release;
pub mod service;
pub mod sessions;
pub mod state;
pub mod v2;
pub mod worker;
