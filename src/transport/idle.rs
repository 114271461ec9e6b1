//! The idle timeout: an attempt ends when no byte has moved in either direction
//! for that long. Bytes that the kernel still sends count as moving.

use std::time::Duration;

use tokio::time::timeout;

use super::unsent;
use super::upload::UploadMeter;

/// How many steps the timeout is counted in. It is never shorter than configured,
/// and longer by at most one step.
const STEPS_PER_TIMEOUT: u32 = 10;
/// The most that a kernel keeps of an upload: Linux and macOS let a
/// connection's send buffer grow to 4 MiB.
const MAX_SEND_BUFFER_BYTES: u64 = 4 << 20;
/// Where the kernel does not say how much it still sends, it is taken to send
/// this many bytes a second.
const MIN_UPLOAD_BYTES_PER_SECOND: u64 = 16 << 10;

/// No byte has moved for the whole timeout.
#[derive(Debug)]
pub(super) struct IdleElapsed;

/// What the bytes of one attempt are watched with.
pub(super) struct IdleWatch<'a> {
    pub(super) meter: &'a UploadMeter,
    /// How long it may be quiet.
    pub(super) idle: Duration,
    /// The remote port of the connection: the server's or the proxy's.
    pub(super) port: u16,
}

impl IdleWatch<'_> {
    /// Waits for `next`, which is the next bytes from the server, for as long
    /// as bytes move.
    pub(super) async fn until<T>(&self, next: impl Future<Output = T>) -> Result<T, IdleElapsed> {
        let mut next = std::pin::pin!(next);
        let mut quiet = QuietPeriod::default();
        loop {
            if let Ok(done) = timeout(self.idle / STEPS_PER_TIMEOUT, next.as_mut()).await {
                return Ok(done);
            }
            if self.meter.sent() > 0 && !self.meter.delivered() {
                self.meter.note_queued(unsent::to_port(self.port));
            }
            quiet.step(self.meter.sent(), self.meter.queued());
            if quiet.lasted(self.idle) {
                return Err(IdleElapsed);
            }
        }
    }
}

/// For how many steps no byte of the upload has moved.
#[derive(Debug, Default)]
struct QuietPeriod {
    steps: u32,
    sent: u64,
    queued: Option<u64>,
}

impl QuietPeriod {
    fn step(&mut self, sent: u64, queued: Option<u64>) {
        let moved = (sent, queued) != (self.sent, self.queued);
        self.steps = if moved { 0 } else { self.steps + 1 };
        (self.sent, self.queued) = (sent, queued);
    }

    fn lasted(&self, idle: Duration) -> bool {
        let hidden = match self.queued {
            Some(_) => 0,
            None => self.sent.min(MAX_SEND_BUFFER_BYTES),
        };
        let steps = self.steps;
        idle / STEPS_PER_TIMEOUT * steps
            >= idle / STEPS_PER_TIMEOUT * STEPS_PER_TIMEOUT
                + Duration::from_secs(hidden / MIN_UPLOAD_BYTES_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    /// After how many steps of 3 s the timeout comes.
    fn ends_after(upload: impl Fn(u32) -> (u64, Option<u64>)) -> Option<u32> {
        let mut quiet = QuietPeriod::default();
        (1..=100).find(|step| {
            let (sent, queued) = upload(*step);
            quiet.step(sent, queued);
            quiet.lasted(IDLE)
        })
    }

    #[test]
    fn http_9_an_upload_is_idle_after_30_s_without_a_byte() {
        assert_eq!(ends_after(|_| (0, None)), Some(10), "nothing was ever sent");
        assert_eq!(ends_after(|_| (5000, Some(300))), Some(11), "sent in the first step");
        assert_eq!(ends_after(|step| (u64::from(step.min(7)), Some(0))), Some(17));
    }

    #[test]
    fn http_9_an_upload_that_moves_is_not_idle() {
        assert_eq!(ends_after(|step| (u64::from(step) * 4096, None)), None);
        // All of it is in the kernel, which sends it slowly.
        let drains = |step| 4_000_000 - u64::from(step) * 240_000;
        assert_eq!(ends_after(|step| (4_400_000, Some(drains(step.min(16))))), Some(26));
    }

    #[test]
    fn http_9_a_kernel_that_does_not_say_what_it_sends_is_given_time_for_it() {
        assert_eq!(ends_after(|_| (16 << 10, None)), Some(12), "1 s more");
        assert_eq!(ends_after(|_| (1 << 20, None)), Some(33), "64 s more");
        assert_eq!(ends_after(|_| (1 << 40, None)), Some(97), "never more than 256 s");
    }
}
