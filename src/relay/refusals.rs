//! Who was refused (RELAY-11, RELAY-12): whose connections they were, within bounds
//! that no stranger can stretch.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::control::relay::{RefusedPeer, RelayStatus};
use crate::model::Timestamp;
use crate::serve::Process;

/// What to do about a client without the certificate.
pub const CERTIFICATE_FIX: &str = "if that is the authorizer, give it the relay's client \
                                   certificate: `santa-sync relay setup` writes its profile";
/// What to do about a client of another user.
pub const USER_FIX: &str = "if that is the authorizer's sync client, list its user in \
                            RelayPeerUsers; else end that program";

/// From one look at the processes of a user to the next.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// When the processes of each refused user were last looked at.
#[derive(Clone, Debug, Default)]
pub struct RefusedUsers(BTreeMap<Option<u32>, Duration>);

impl RefusedUsers {
    /// Whether it is time to look at a user that is refused.
    pub fn note(&mut self, user: Option<u32>, now: Duration) -> bool {
        let is_full = self.0.len() >= RelayStatus::MAX_REFUSED_PEERS;
        match self.0.get_mut(&user) {
            Some(last) if now.saturating_sub(*last) < LOOK_AGAIN => false,
            Some(last) => {
                *last = now;
                true
            }
            None if is_full => false,
            None => {
                self.0.insert(user, now);
                true
            }
        }
    }
}

/// Counts a refusal. Users beyond the bound are not listed.
pub fn add(
    peers: &mut Vec<RefusedPeer>,
    user_id: Option<u32>,
    process: Option<Process>,
    at: Timestamp,
) {
    let known = peers.iter().position(|peer| peer.user_id == user_id);
    let place = known.unwrap_or(peers.len());
    if known.is_none() && place < RelayStatus::MAX_REFUSED_PEERS {
        let (user, process, program) = (None, None, None);
        peers.push(RefusedPeer { user_id, user, process, program, times: 0, at });
    }
    let Some(peer) = peers.get_mut(place) else { return };
    peer.times += 1;
    peer.at = at;
    if let Some(Process { id, program }) = process {
        (peer.process, peer.program) = (Some(id), program);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RELAY-12: strangers grow neither the list nor the work.
    #[test]
    fn relay_12_refused_users_are_listed_within_bounds() {
        let (mut users, mut peers) = (RefusedUsers::default(), Vec::new());
        let at = Timestamp::from_secs(1_800_000_000);
        let process = Process { id: 42, program: Some("curl".to_owned()) };
        assert!(users.note(Some(1000), Duration::ZERO));
        add(&mut peers, Some(1000), Some(process), at);
        assert!(!users.note(Some(1000), Duration::from_secs(59)));
        add(&mut peers, Some(1000), None, at.after(Duration::from_secs(5)));
        assert!(users.note(Some(1000), LOOK_AGAIN));
        assert_eq!((peers[0].times, peers[0].process), (2, Some(42)));
        assert_eq!(peers[0].at, at.after(Duration::from_secs(5)));
        assert_eq!(peers[0].to_string(), "user 1000, process 42 (curl)");
        let named = RefusedPeer { user: Some("kim".to_owned()), ..peers[0].clone() };
        assert_eq!(named.to_string(), "kim (user 1000), process 42 (curl)");
        for user in 0..100 {
            let is_due = users.note(Some(user), Duration::ZERO);
            assert_eq!(is_due, user < 15, "{user}");
            add(&mut peers, Some(user), None, at);
        }
        add(&mut peers, None, None, at);
        assert_eq!(peers.len(), RelayStatus::MAX_REFUSED_PEERS);
        add(&mut peers, Some(1000), None, at);
        assert_eq!(peers[0].times, 3, "who is listed is still counted");
    }
}
