//! The one table of configuration keys. Parsing, type checks, `config check`,
//! the table in `docs/configuration.md` and the key manifest under `launchd/` all follow it.

use strum::VariantNames as _;

use super::santa_keys::SANTA_KEYS;
use crate::model::{
    ContentEncoding, LogLevel, MAX_SYNC_INTERVAL_SECS, MIN_SYNC_INTERVAL_SECS, RelayManner,
};

/// What a key's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `<true/>` or `<false/>`; the integers 1 and 0 count as such.
    Bool,
    /// An integer from the first to the second number.
    Integer(i64, i64),
    /// A string.
    Text,
    /// One of these strings, in any case.
    Choice(&'static [&'static str]),
    /// A string: the absolute path of a file or directory.
    Path,
    /// Bytes.
    Data,
    /// An array of strings.
    Texts,
    /// A program with its arguments: an array of strings, or a string that is
    /// split at blanks.
    Command,
    /// A dictionary of strings to strings.
    Headers,
    /// A proxy dictionary, see [`super::Proxy`].
    Proxy,
    /// An array of rule dictionaries.
    Rules,
}

impl Kind {
    /// The word for it in tables and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Integer(..) => "integer",
            Self::Text | Self::Choice(_) | Self::Path => "string",
            Self::Data => "data",
            Self::Texts => "array of strings",
            Self::Command => "string or array of strings",
            Self::Headers => "dictionary of strings",
            Self::Proxy => "dictionary",
            Self::Rules => "array of dictionaries",
        }
    }

    /// The word with its article, for sentences.
    pub(super) const fn phrase(self) -> &'static str {
        match self {
            Self::Bool => "a boolean",
            Self::Integer(..) => "an integer",
            Self::Text | Self::Choice(_) | Self::Path => "a string",
            Self::Data => "data",
            Self::Texts => "an array of strings",
            Self::Command => "a string or an array of strings",
            Self::Headers => "a dictionary of strings",
            Self::Proxy => "a dictionary",
            Self::Rules => "an array of dictionaries",
        }
    }
}

/// Where a key comes from, and what becomes of it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A key of Santa.
    Santa,
    /// A key of Santa under a name it no longer uses; the text is the key to
    /// write instead.
    Deprecated(&'static str),
    /// A key of Santa that this agent cannot honour; the text says what to do.
    Unsupported(&'static str),
    /// A key of this agent.
    Own,
}

/// A configuration key.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own effect")]
pub struct Key {
    /// Its name, to the letter.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// Its default, for people.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Whose key it is.
    pub origin: Origin,
    /// Whether the server's settings win over it.
    pub server_wins: bool,
    /// Whether security rests on it: a wrong value is an error, not "unset".
    pub strict: bool,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// Whether it says how to reach the server: then it is not taken from
    /// Santa's domain where the agent's own has a server (CONF-1).
    pub transport: bool,
}

impl Key {
    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            default,
            meaning,
            origin: Origin::Santa,
            server_wins: false,
            strict: false,
            secret: false,
            transport: false,
        }
    }

    const fn transport(self) -> Self {
        Self { transport: true, ..self }
    }

    const fn server_wins(self) -> Self {
        Self { server_wins: true, ..self }
    }

    const fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    const fn own(self) -> Self {
        Self { origin: Origin::Own, ..self }
    }

    const fn deprecated(self, instead: &'static str) -> Self {
        Self { origin: Origin::Deprecated(instead), ..self }
    }

    const fn unsupported(self, instead: &'static str) -> Self {
        Self { origin: Origin::Unsupported(instead), ..self }
    }
}

/// The longest deadline of a sync that can be configured, in seconds.
const DAY_SECS: i64 = 24 * 60 * 60;

/// The longest `RelayStale`, in seconds: a year.
const YEAR_SECS: i64 = 365 * DAY_SECS;

const MEDIA_ACTIONS: Kind = Kind::Choice(&["Allow", "Block", "Remount"]);

/// Every key this agent knows, in the order of the documentation.
pub const KEYS: &[Key] = &[
    Key::new(
        "SyncBaseURL",
        Kind::Text,
        "none: no sync",
        "Base URL of the sync server; `https`, or `http` to this host only",
    )
    .transport()
    .strict(),
    Key::new(
        "SyncEnableProtoTransfer",
        Kind::Bool,
        "false",
        "Binary protobuf instead of JSON, in both directions",
    )
    .transport(),
    Key::new(
        "SyncClientContentEncoding",
        Kind::Choice(ContentEncoding::VARIANTS),
        "deflate",
        "Compression of request bodies",
    )
    .transport(),
    Key::new("SyncExtraHeaders", Kind::Headers, "none", "Headers added to every request")
    .transport().secret(),
    Key::new(
        "SyncProxyConfiguration",
        Kind::Proxy,
        "the environment",
        "Proxy, under Apple's key names; an empty dictionary means no proxy",
    )
    .transport()
    .secret(),
    Key::new(
        "SyncEnableCleanSyncEventUpload",
        Kind::Bool,
        "true",
        "`false` keeps events queued during clean syncs",
    ),
    Key::new(
        "ServerAuthRootsFile",
        Kind::Path,
        "the platform's roots",
        "PEM file of the only certificates a server may have or chain to",
    )
    .transport()
    .strict(),
    Key::new(
        "ServerAuthRootsData",
        Kind::Data,
        "the platform's roots",
        "The same as PEM bytes; the file wins",
    )
    .transport()
    .strict(),
    Key::new(
        "ClientAuthCertificateFile",
        Kind::Path,
        "none",
        "PKCS#12 or PEM file with the client certificate and its key",
    )
    .transport()
    .strict(),
    Key::new("ClientAuthCertificatePassword", Kind::Text, "none", "Password of that file")
    .transport()
        .strict()
        .secret(),
    Key::new(
        "ClientAuthCertificateCN",
        Kind::Text,
        "none",
        "Client certificate from the keychain, by subject",
    )
    .transport()
    .unsupported("export the identity as PKCS#12 and set ClientAuthCertificateFile"),
    Key::new(
        "ClientAuthCertificateIssuerCN",
        Kind::Text,
        "none",
        "Client certificate from the keychain, by issuer",
    )
    .transport()
    .unsupported("export the identity as PKCS#12 and set ClientAuthCertificateFile"),
    Key::new("MachineID", Kind::Text, "the hardware UUID", "The id the server knows this host by"),
    Key::new("MachineIDPlist", Kind::Path, "none", "Property list that holds the machine id"),
    Key::new("MachineIDKey", Kind::Text, "none", "Its key in that list"),
    Key::new("MachineOwner", Kind::Text, "none", "Short name of the person the host belongs to"),
    Key::new(
        "MachineOwnerPlist",
        Kind::Path,
        "none",
        "Property list that holds the owner and the owner's groups",
    ),
    Key::new("MachineOwnerKey", Kind::Text, "none", "The owner's key in that list"),
    Key::new("MachineOwnerGroups", Kind::Texts, "none", "Groups of the owner"),
    Key::new("MachineOwnerGroupsKey", Kind::Text, "none", "The groups' key in MachineOwnerPlist"),
    Key::new("ClientMode", Kind::Integer(1, 3), "1", "1 Monitor, 2 Lockdown, 3 Standalone")
        .server_wins(),
    Key::new(
        "EnableTransitiveRules",
        Kind::Bool,
        "false",
        "Allow what a compiler with a compiler rule writes",
    )
    .server_wins(),
    Key::new("EnableAllEventUpload", Kind::Bool, "false", "Upload allowed executions too")
        .server_wins(),
    Key::new(
        "DisableUnknownEventUpload",
        Kind::Bool,
        "false",
        "Do not upload executions that were allowed because no rule matched",
    )
    .server_wins(),
    Key::new("AllowedPathRegex", Kind::Text, "none", "ICU pattern of paths that may run")
        .server_wins(),
    Key::new("BlockedPathRegex", Kind::Text, "none", "ICU pattern of paths that may not run")
        .server_wins(),
    Key::new("RemovableMediaAction", MEDIA_ACTIONS, "Allow", "What becomes of removable volumes")
        .server_wins(),
    Key::new("RemovableMediaRemountFlags", Kind::Texts, "none", "Mount flags for `Remount`")
        .server_wins(),
    Key::new(
        "EncryptedRemovableMediaAction",
        MEDIA_ACTIONS,
        "as RemovableMediaAction",
        "What becomes of encrypted removable volumes",
    )
    .server_wins(),
    Key::new(
        "EncryptedRemovableMediaRemountFlags",
        Kind::Texts,
        "none",
        "Mount flags for their `Remount`",
    )
    .server_wins(),
    Key::new(
        "OverrideFileAccessAction",
        Kind::Choice(&["none", "audit_only", "auditonly", "disable"]),
        "none",
        "Overrides the action of every file-access rule",
    )
    .server_wins(),
    Key::new("EventDetailURL", Kind::Text, "none", "Link of the block dialogue").server_wins(),
    Key::new("EventDetailText", Kind::Text, "none", "Label of that link").server_wins(),
    Key::new("StaticRules", Kind::Rules, "none", "Rules that win over every rule of the server"),
    Key::new("EnableTransitiveWhitelisting", Kind::Bool, "false", "Older name")
        .deprecated("EnableTransitiveRules"),
    Key::new("WhitelistRegex", Kind::Text, "none", "Older name").deprecated("AllowedPathRegex"),
    Key::new("BlacklistRegex", Kind::Text, "none", "Older name").deprecated("BlockedPathRegex"),
    Key::new("BlockUSBMount", Kind::Bool, "false", "Older form").deprecated("RemovableMediaAction"),
    Key::new("RemountUSBMode", Kind::Texts, "none", "Older form")
        .deprecated("RemovableMediaRemountFlags"),
    Key::new(
        "StateDirectory",
        Kind::Path,
        "/var/db/santa-sync (macOS), /var/lib/santa-sync (Linux)",
        "Where rules, events and settings are kept",
    )
    .own(),
    Key::new(
        "SyncDeadline",
        Kind::Integer(60, DAY_SECS),
        "3600",
        "Seconds that a sync may take before it is stopped",
    )
    .own(),
    Key::new(
        "SyncDisableHTTP2",
        Kind::Bool,
        "false",
        "HTTP/1.1 even where the server offers HTTP/2",
    )
    .own(),
    Key::new(
        "EventsDatabase",
        Kind::Path,
        "none",
        "Another program's events.db to upload from, too; not that of a running Santa",
    )
    .own(),
    Key::new(
        "EventQueueLimit",
        Kind::Integer(1_000, 100_000_000),
        "1000000",
        "At most this many events stay queued; the oldest allowed executions are dropped first",
    )
    .own(),
    Key::new(
        "PromptEventUpload",
        Kind::Bool,
        "true",
        "Upload events soon after a denial, not only in syncs",
    )
    .own(),
    Key::new(
        "GuardRemovedPercent",
        Kind::Integer(1, 100),
        "none",
        "Largest share of at least 100 stored rules that one download may remove or reverse; `sync --clean --past-guard` lets one through",
    )
    .own(),
    Key::new(
        "NotificationHook",
        Kind::Path,
        "none",
        "Program to run when a sync delivers a rule with a notification app name",
    )
    .own(),
    Key::new(
        "SocketGroup",
        Kind::Text,
        "none",
        "Group whose members may ask the daemon for its status and for a sync",
    )
    .own(),
    Key::new("MetricsFile", Kind::Path, "none", "File for metrics in the Prometheus text format")
        .own(),
    Key::new(
        "LogLevel",
        Kind::Choice(LogLevel::VARIANTS),
        "info",
        "Least severe log lines of the daemon",
    )
    .own(),
    Key::new(
        "LogFormat",
        Kind::Choice(&["text", "json"]),
        "text",
        "Form of the daemon's log lines",
    )
    .own(),
    Key::new(
        "RelayListen",
        Kind::Text,
        "none: no relay",
        "`127.0.0.1:PORT` or `[::1]:PORT`: serve the authorizer of this host there",
    )
    .own()
    .strict(),
    Key::new("RelayTLS", Kind::Bool, "false", "Serve the authorizer over TLS, with a CA of its own")
        .own()
        .strict(),
    Key::new(
        "RelayClientCertificate",
        Kind::Bool,
        "false",
        "Serve only who has the relay's client certificate; needs RelayTLS",
    )
    .own()
    .strict(),
    Key::new(
        "RelayDirectory",
        Kind::Path,
        "/Library/Application Support/santa-sync/relay (macOS), /etc/santa-sync/relay (Linux)",
        "Where the authorizer finds the relay's certificates",
    )
    .own(),
    Key::new(
        "RelayMachineID",
        Kind::Text,
        "this host's machine id",
        "The machine id that the authorizer uses, if it differs",
    )
    .own(),
    Key::new(
        "RelayInterval",
        Kind::Integer(MIN_SYNC_INTERVAL_SECS as i64, MAX_SYNC_INTERVAL_SECS as i64),
        "600 with a nudge command, else 60",
        "Seconds between the authorizer's syncs",
    )
    .own(),
    Key::new(
        "RelayNudge",
        Kind::Command,
        "/usr/local/bin/santactl sync (macOS), none (Linux)",
        "Command that has the authorizer sync; empty for none",
    )
    .own(),
    Key::new(
        "RelayStale",
        Kind::Integer(0, YEAR_SECS),
        "259200",
        "Seconds without a sync of the authorizer after which only events are sent to the server; 0 for never",
    )
    .own(),
    Key::new(
        "RelayPeerUsers",
        Kind::Texts,
        "root (Linux), none (macOS)",
        "Users whose connections count as the authorizer's",
    )
    .own()
    .strict(),
    Key::new(
        "RelaySecret",
        Kind::Text,
        "none",
        "What requests must carry in the header `Santa-Sync-Relay-Secret`",
    )
    .own()
    .strict()
    .secret(),
    Key::new(
        "RelayManner",
        Kind::Choice(RelayManner::VARIANTS),
        "santa",
        "The authorizer that is served",
    )
    .own()
    .strict(),
];

/// The key of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known name most like `name`, if any is so like it that it may have been
/// meant.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    KEYS.iter()
        .map(|key| key.name)
        .chain(SANTA_KEYS.iter().map(|(name, _)| *name))
        .map(|known| (strsim::normalized_damerau_levenshtein(&lower, &known.to_lowercase()), known))
        // Measured on typical slips: a wrong case scores 1, a missing word 0.64,
        // an unrelated word below 0.5.
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_is_known_once() {
        let santas = || SANTA_KEYS.iter().map(|(name, _)| *name);
        let names: Vec<_> = KEYS.iter().map(|k| k.name).chain(santas()).collect();
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert!(santas().is_sorted());
    }

    #[test]
    fn a_deprecated_key_names_one_that_is_not() {
        for key in KEYS {
            if let Origin::Deprecated(instead) = key.origin {
                let instead = find(instead).expect(key.name);
                assert_eq!(instead.origin, Origin::Santa, "{}", key.name);
            }
        }
    }

    #[test]
    fn conf_2_a_slip_of_the_pen_finds_the_key_that_was_meant() {
        for (written, meant) in [
            ("SyncBaseUrl", "SyncBaseURL"),
            ("syncbaseurl", "SyncBaseURL"),
            ("SyncURL", "SyncBaseURL"),
            ("SyncExtraHeader", "SyncExtraHeaders"),
            ("MachineOwnerGroup", "MachineOwnerGroups"),
            ("ClientAuthCertificatePasword", "ClientAuthCertificatePassword"),
            ("EnableTransitiveRule", "EnableTransitiveRules"),
        ] {
            assert_eq!(nearest(written), Some(meant), "{written}");
        }
        for unrelated in ["Foo", "PayloadVersion", "Colour", ""] {
            assert_eq!(nearest(unrelated), None, "{unrelated}");
        }
    }
}
