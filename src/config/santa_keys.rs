//! Keys of Santa that a sync does not need. A profile may hold them beside ours,
//! and Santa follows them: nothing is said of them, least of all to remove them.

/// Where Santa names a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SantaSource {
    /// Its page of keys, `docs/src/lib/santaconfig.ts`.
    Page,
    /// Only its code, `Source/common/SNTConfigurator.mm`.
    Code,
    /// Its `sync-state.plist` or `state.plist`.
    State,
    /// An earlier release.
    Earlier,
}

use SantaSource::{Code, Earlier, Page, State};

/// The keys, sorted, each with its source (Santa 2026.8). Those that a sync
/// needs are in [`super::keys::KEYS`].
pub const SANTA_KEYS: &[(&str, SantaSource)] = &[
    ("AboutText", Page),
    ("AllowDelegatedSignals", Code),
    ("AllowedNetworkMountHosts", Page),
    ("AllowedSantaCommands", Code),
    ("AntiSuspendSigningIDs", Code),
    ("BannedBlockMessage", Page),
    ("BannedNetworkMountBlockMessage", Page),
    ("BannedUSBBlockMessage", Page),
    ("BinaryUploadFilterExpressions", Page),
    ("BlockNetworkMount", Page),
    ("BrandingCompanyLogo", Page),
    ("BrandingCompanyLogoDark", Page),
    ("BrandingCompanyName", Page),
    ("CELFallbackRules", State),
    ("DNSUpstreamTimeoutSeconds", Code),
    ("DemotedAdmins", State),
    ("DismissText", Page),
    ("EnableBackwardsCompatibleContentEncoding", Earlier),
    ("EnableBadSignatureProtection", Page),
    ("EnableBundles", Code),
    ("EnableDebugLogging", Page),
    ("EnableForkAndExitLogging", Earlier),
    ("EnableMachineIDDecoration", Page),
    ("EnableMenuItem", Page),
    ("EnableMenuItemUserOverride", Earlier),
    ("EnableNATS", Earlier),
    ("EnableNotificationSilences", Page),
    ("EnablePageZeroProtection", Page),
    ("EnablePushNotifications", Code),
    ("EnableSilentMode", Page),
    ("EnableSilentTTYMode", Page),
    ("EnableStandalonePasswordFallback", Page),
    ("EnableStatsCollection", Page),
    ("EnableSysxCache", Earlier),
    ("EnableTelemetryExport", Page),
    ("EnabledProcessAnnotations", Code),
    ("EntitlementsPrefixFilter", Page),
    ("EntitlementsTeamIDFilter", Page),
    ("EventLogPath", Page),
    ("EventLogType", Page),
    ("ExportConfiguration", State),
    ("FCMAPIKey", Code),
    ("FCMEntity", Code),
    ("FCMProject", Code),
    ("FailClosed", Page),
    ("FileAccessBlockMessage", Page),
    ("FileAccessEventDetailText", Page),
    ("FileAccessEventDetailURL", Page),
    ("FileAccessGlobalLogsPerSec", Page),
    ("FileAccessGlobalWindowSizeSec", Page),
    ("FileAccessPolicy", Page),
    ("FileAccessPolicyPlist", Page),
    ("FileAccessPolicyUpdateIntervalSec", Page),
    ("FileChangesPrefixFilters", Page),
    ("FileChangesRegex", Page),
    ("FullSyncLastSuccess", State),
    ("FunFontsOnSpecificDays", Page),
    ("IgnoreOtherEndpointSecurityClients", Page),
    ("LastBootUUID", State),
    ("MetricExportInterval", Page),
    ("MetricExportTimeout", Page),
    ("MetricExtraLabels", Page),
    ("MetricFormat", Page),
    ("MetricURL", Page),
    ("ModeNotificationLockdown", Page),
    ("ModeNotificationMonitor", Page),
    ("ModeNotificationStandalone", Page),
    ("ModeTransition", State),
    ("MoreInfoURL", Page),
    ("NetworkExtensionSettings", State),
    ("OnStartRemovableMediaOptions", Earlier),
    ("OnStartUSBOptions", Page),
    ("PushTokenChain", State),
    ("RemountUSBBlockMessage", Page),
    ("RuleSyncLastSuccess", State),
    ("SpoolDirectory", Page),
    ("SpoolDirectoryEventMaxFlushTimeSec", Page),
    ("SpoolDirectoryFileSizeThresholdKB", Page),
    ("SpoolDirectorySizeThresholdMB", Page),
    ("StatsOrganizationID", Page),
    ("SyncCleanRequired", State),
    ("SyncTypeRequired", State),
    ("TMM", State),
    ("Telemetry", Page),
    ("TelemetryExportIntervalSec", Page),
    ("TelemetryExportMaxFilesPerBatch", Page),
    ("TelemetryExportTimeoutSec", Page),
    ("TelemetryFilterExpressions", Page),
    ("TemporaryAdminPolicy", State),
    ("UnknownBlockMessage", Page),
];

/// Whether Santa has a key of that name that a sync does not need.
#[must_use]
pub(super) fn is_santas(name: &str) -> bool {
    SANTA_KEYS.binary_search_by_key(&name, |(key, _)| key).is_ok()
}
