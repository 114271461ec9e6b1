//! The daemon's place: the state directory it holds. Somebody may remove it, or
//! put another one there, while the daemon runs.

use tracing::{error, info};

use super::EventLoop;
use crate::daemon::DaemonError;
use crate::daemon::instance_lock::InstanceLock;
use crate::store::Store;

impl EventLoop {
    /// Sees to it that the state directory is the one this daemon holds: one
    /// that is gone is created again, as at the start, with the lock of the daemon
    /// and the control socket. The error says why that cannot be done; then
    /// nothing may be done there either.
    pub(super) fn keep_place(&mut self) -> Result<(), DaemonError> {
        if self.instance_lock.holds(&self.state_dir) {
            return Ok(());
        }
        if !self.lost {
            error!(
                state_dir = %self.state_dir.display(),
                "the state directory was removed or replaced; with it went rules, settings and \
                 queued events; creating it again"
            );
            self.lost = true;
        }
        Store::prepare_dir(&self.state_dir)?;
        self.instance_lock = InstanceLock::acquire(&self.state_dir)?;
        if let Some(socket) = self.socket.take() {
            // Clients that are connected to the old one stay so.
            socket.close();
        }
        self.socket = self.listen();
        self.lost = false;
        info!(state_dir = %self.state_dir.display(), "the state directory has been created again");
        Ok(())
    }
}
