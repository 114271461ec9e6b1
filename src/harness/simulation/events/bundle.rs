//! Bundles: a server requests their events once it knows one of their executables.

use crate::harness::fixtures::Random;
use crate::harness::simulation::plan::Mix;

/// How many bundles of each size there are, over all hosts.
const BUNDLES: u32 = 256;

/// A bundle that is installed on many hosts. Its hash holds both numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bundle {
    /// Of how many executables it consists, at least 1.
    pub(super) executables: u32,
    number: u32,
}

/// What the server knows of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum BundleState {
    /// It has heard of it, or will with the next upload.
    #[default]
    Reported,
    /// It has requested it, and so many executables have been delivered.
    Requested { delivered: u32 },
}

impl Bundle {
    /// The bundle of a denied execution; `None` if it is in none.
    pub(super) fn pick(sizes: &Mix<u32>, random: &mut Random) -> Option<Self> {
        let executables = sizes.pick(random).copied().filter(|size| *size > 0)?;
        Some(Self { executables, number: random.below(BUNDLES) })
    }

    /// The number that its executables are made from.
    pub(super) const fn seed(self) -> u64 {
        (self.executables as u64) << 32 | self.number as u64
    }

    /// Its hash: 64 hex digits.
    pub(super) fn hash(self) -> String {
        let start = Random::new(self.seed()).hex(24);
        format!("{start}{:08x}{:08x}", self.executables, self.number)
    }

    /// The bundle of that hash, if it is one of a simulated host.
    pub(super) fn of_hash(hash: &str) -> Option<Self> {
        let number = |from, to| u32::from_str_radix(hash.get(from..to)?, 16).ok();
        let bundle = Self { executables: number(48, 56)?, number: number(56, 64)? };
        (bundle.hash() == hash).then_some(bundle)
    }
}

impl BundleState {
    /// The server requests it. Returns whether its executables are to be queued: not
    /// those of a request that is still open.
    pub(super) fn request(&mut self) -> bool {
        let is_new = *self == Self::Reported;
        if is_new {
            *self = Self::Requested { delivered: 0 };
        }
        is_new
    }

    /// The server has accepted one of its executables.
    pub(super) const fn delivered(&mut self, bundle: Bundle) {
        if let Self::Requested { delivered } = self {
            *delivered += 1;
            if *delivered >= bundle.executables {
                *self = Self::Reported;
            }
        }
    }
}
