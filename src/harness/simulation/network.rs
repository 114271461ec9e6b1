//! What stands between the hosts and the server: their clocks, and the outages that
//! the simulator plays.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Sleep, SystemClock};
use crate::failure::{Failure, FailureKind};
use crate::model::Now;

/// The clock of the hosts, which may run faster than real time.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    system: SystemClock,
    start: Now,
    speed: u32,
}

impl HostClock {
    /// A clock that agrees with the machine's now, and runs `speed` times as fast.
    #[must_use]
    pub fn new(speed: u32) -> Self {
        let system = SystemClock::with_rate(speed);
        Self { start: system.now(), system, speed: speed.max(1) }
    }

    /// How many times as fast as real time it runs, at least 1.
    #[must_use]
    pub const fn speed(&self) -> u32 {
        self.speed
    }

    /// Real time since it was made.
    #[must_use]
    pub fn real_elapsed(&self) -> Duration {
        self.system.now().elapsed.saturating_sub(self.start.elapsed)
    }

    /// Real time until a time of this clock.
    #[must_use]
    pub fn until(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(self.now().elapsed) / self.speed
    }
}

impl Clock for HostClock {
    /// The wall clock is the machine's; only [`Now::elapsed`] runs faster.
    fn now(&self) -> Now {
        let now = self.system.now();
        let since = now.elapsed.saturating_sub(self.start.elapsed);
        Now { elapsed: self.start.elapsed + since * self.speed, ..now }
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.system.sleep(duration)
    }
}

/// The way to the server, as far as the simulator plays it.
#[derive(Clone, Debug)]
pub struct SimulatedNetwork(watch::Receiver<bool>);

impl SimulatedNetwork {
    /// A network, and what takes it down (`true`) and up again.
    #[must_use]
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (down, network) = watch::channel(false);
        (down, Self(network))
    }

    /// Makes an exchange, unless the network is down, or goes down meanwhile.
    ///
    /// # Errors
    /// What an agent finds then: a refused or a broken connection.
    pub async fn reach<T>(&self, exchange: impl Future<Output = T>) -> Result<T, Failure> {
        if *self.0.borrow() {
            let what = "the simulated outage refuses the connection".to_owned();
            return Err(Failure::new(FailureKind::Refused, what));
        }
        let mut network = self.0.clone();
        tokio::select! {
            biased;
            done = exchange => Ok(done),
            () = goes_down(&mut network) => {
                let what = "the simulated outage breaks the connection".to_owned();
                Err(Failure::new(FailureKind::ConnectionLost, what))
            }
        }
    }
}

async fn goes_down(network: &mut watch::Receiver<bool>) {
    if network.wait_for(|is_down| *is_down).await.is_err() {
        // Nobody is left who could take it down.
        std::future::pending::<()>().await;
    }
}
