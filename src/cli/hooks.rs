//! Hidden options that make the program fail on purpose, for tests. Only debug
//! builds and builds with the feature `test-hooks` have them; elsewhere these
//! groups of options are empty.

#[cfg(any(debug_assertions, feature = "test-hooks"))]
mod enabled;

#[cfg(any(debug_assertions, feature = "test-hooks"))]
pub(super) use enabled::{DaemonHooks, SyncHooks, SyncProcessHooks};

#[cfg(not(any(debug_assertions, feature = "test-hooks")))]
pub(super) use disabled::{DaemonHooks, SyncHooks, SyncProcessHooks};

#[cfg(not(any(debug_assertions, feature = "test-hooks")))]
mod disabled {
    use std::ffi::OsString;

    use crate::daemon::network;
    use crate::relay::core::Checkpoint;
    use crate::sync::progress::Observer;

    #[derive(Debug, Clone, Copy, clap::Args)]
    pub(in crate::cli) struct SyncHooks {}

    impl SyncHooks {
        pub(in crate::cli) const fn is_set(self) -> bool {
            false
        }

        pub(in crate::cli) fn observe<T>(
            self,
            observer: &mut dyn Observer,
            sync: impl FnOnce(&mut dyn Observer) -> T,
        ) -> T {
            sync(observer)
        }
    }

    pub(in crate::cli) type SyncProcessHooks = SyncHooks;

    #[derive(Debug, Clone, Copy, clap::Args)]
    pub(in crate::cli) struct DaemonHooks {}

    impl DaemonHooks {
        pub(in crate::cli) const fn sync_process_arg(self, _sync: u64) -> Option<OsString> {
            None
        }

        pub(in crate::cli) fn relay_checkpoint(self) -> Checkpoint {
            std::sync::Arc::new(|_, _| {})
        }

        pub(in crate::cli) fn network(self) -> network::Source {
            Box::new(network::source)
        }
    }
}
