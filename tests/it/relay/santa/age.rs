//! What distinguishes the releases of Santa.

use santa_sync::protocol::wire::Policy;

/// A release that stands for its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Age {
    /// No hash, no type in postflight, 4xx repeated, no CEL.
    Y2024M12,
    /// The hash; still 4xx repeated.
    Y2025M7,
    /// The last but one that keeps its settings in clean syncs; 4xx repeated.
    Y2026M3,
    /// Clean syncs clear the settings; 4xx final; every policy known.
    Y2026M7,
}

impl Age {
    pub(crate) const ALL: [Self; 4] = [Self::Y2024M12, Self::Y2025M7, Self::Y2026M3, Self::Y2026M7];

    /// What preflight says.
    pub(crate) const fn version(self) -> &'static str {
        match self {
            Self::Y2024M12 => "2024.12.684326510",
            Self::Y2025M7 => "2025.7.751111111",
            Self::Y2026M3 => "2026.3.772222222",
            Self::Y2026M7 => "2026.7.793333333",
        }
    }

    const fn is_from(self, year: u32, month: u32) -> bool {
        let (own_year, own_month) = match self {
            Self::Y2024M12 => (2024, 12),
            Self::Y2025M7 => (2025, 7),
            Self::Y2026M3 => (2026, 3),
            Self::Y2026M7 => (2026, 7),
        };
        own_year > year || (own_year == year && own_month >= month)
    }

    /// `sync_type` in postflight.
    pub(crate) const fn reports_type(self) -> bool {
        self.is_from(2025, 1)
    }

    /// `sip_status` in preflight.
    pub(crate) const fn reports_sip(self) -> bool {
        self.is_from(2025, 5)
    }

    /// `rules_hash` in preflight and postflight.
    pub(crate) const fn reports_hash(self) -> bool {
        self.is_from(2025, 7)
    }

    /// Every status that is not 200 is tried again.
    pub(crate) const fn repeats_4xx(self) -> bool {
        !self.is_from(2026, 4)
    }

    /// A clean sync clears the settings first.
    pub(crate) const fn clears_settings(self) -> bool {
        self.is_from(2026, 4)
    }

    /// `removable_media_policy` and `encrypted_removable_media_policy`; before, only
    /// the deprecated pair. The month is assumed.
    pub(crate) const fn knows_media_policies(self) -> bool {
        self.is_from(2026, 1)
    }

    /// Whether it can name this policy; otherwise the rule is dropped.
    pub(crate) const fn knows(self, policy: Policy) -> bool {
        match policy {
            Policy::Unknown => false,
            Policy::Cel => self.is_from(2025, 6),
            Policy::SilentGuiBlocklist | Policy::SilentTtyBlocklist => self.is_from(2026, 6),
            Policy::Allowlist
            | Policy::AllowlistCompiler
            | Policy::Blocklist
            | Policy::SilentBlocklist
            | Policy::Remove => true,
        }
    }
}
