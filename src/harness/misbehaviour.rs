//! Ways to break one requirement of a sync server each, for people who write
//! probes and agents: what finds a broken server must find each of these.
//!
//! A [`Misbehaviour`] does what breaks its requirement and as little else as
//! possible. The state asks the set in force at a few points: what a request may
//! be ([`requests`]), what a sync brings ([`syncs`]), what a response looks like
//! ([`responses`]).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

mod requests;
mod responses;
mod syncs;

pub(super) use responses::BUSY;
pub(super) use syncs::{Contents, HostFacts, SyncPlan, Wishes};

/// How a requirement is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Clients break or lose something.
    Fail,
    /// It works with limits, or for some configurations.
    Warning,
    /// Nobody's fault, worth knowing.
    Info,
}

impl Severity {
    /// The name in lists and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// What is known of a misbehaviour.
struct Entry {
    requirement: &'static str,
    slug: &'static str,
    severity: Severity,
    does: &'static str,
}

/// Declares the enum, and the table that goes with it.
macro_rules! misbehaviours {
    ($(
        $(#[doc = $does:literal])+
        $variant:ident = $requirement:literal $slug:literal $severity:ident,
    )+) => {
        /// A way to break a requirement. Its documentation is what
        /// `harness serve --expose-errors list` prints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Misbehaviour {
            $($(#[doc = $does])+ $variant,)+
        }

        impl Misbehaviour {
            /// Every misbehaviour, by requirement; the plainest way to break one
            /// comes first.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            const fn entry(self) -> Entry {
                match self {
                    $(Self::$variant => Entry {
                        requirement: $requirement,
                        slug: $slug,
                        severity: Severity::$severity,
                        does: concat!($($does),+),
                    },)+
                }
            }
        }
    };
}

misbehaviours! {
    /// Postflight returns 201 instead of 200.
    Http01Created = "HTTP-01" "created" Fail,
    /// Postflight returns 204.
    Http01NoContent = "HTTP-01" "no-content" Fail,
    /// Every stage redirects to the same URL with a slash at its end.
    Http02TrailingSlash = "HTTP-02" "trailing-slash" Fail,
    /// The response to postflight ends before its Content-Length.
    Http03Cut = "HTTP-03" "cut" Fail,
    /// The response to postflight comes after 11 seconds.
    Http03Slow = "HTTP-03" "slow" Warning,
    /// https with a certificate that has expired.
    Http04Expired = "HTTP-04" "expired" Fail,
    /// https with a certificate for another host.
    Http04WrongName = "HTTP-04" "wrong-name" Fail,
    /// https without the intermediate certificate.
    Http04IncompleteChain = "HTTP-04" "incomplete-chain" Fail,
    /// https with a certificate that expires in a week.
    Http04ExpiresSoon = "HTTP-04" "expires-soon" Info,
    /// The second request on a connection is dropped without a response.
    Http05Reset = "HTTP-05" "reset" Warning,
    /// A connection is closed after 2 seconds without a request.
    Http05ClosesIdle = "HTTP-05" "closes-idle" Info,
    /// Later stages require the cookie of preflight, otherwise 401.
    Http06Cookie = "HTTP-06" "cookie" Warning,
    /// Uploads and rule pages require the cookie of preflight, and the last page uses it up.
    Http06UsedUp = "HTTP-06" "used-up" Warning,
    /// Later stages require a cookie marked Secure, which no client returns over http.
    Http06SecureCookie = "HTTP-06" "secure-cookie" Fail,
    /// The doctor's empty preflight gets 500.
    Http07Error = "HTTP-07" "error" Warning,
    /// The doctor's empty preflight gets 404.
    Http07NotFound = "HTTP-07" "not-found" Warning,
    /// Responses are gzip whether requested or not.
    Http08Gzip = "HTTP-08" "gzip" Warning,
    /// JSON is labelled text/plain.
    Http08Label = "HTTP-08" "label" Info,
    /// An unknown path gets 200 with a page of HTML.
    Http09Page = "HTTP-09" "page" Warning,
    /// An unknown path gets 500.
    Http09Error = "HTTP-09" "error" Warning,

    /// JSON with a zlib body gets 415.
    Enc01NoDeflate = "ENC-01" "no-deflate" Fail,
    /// JSON that is not compressed gets 415.
    Enc02NoIdentity = "ENC-02" "no-identity" Warning,
    /// JSON with a gzip body gets 415.
    Enc03NoGzip = "ENC-03" "no-gzip" Warning,
    /// Protobuf is read, and answered in JSON.
    Enc04Json = "ENC-04" "json" Fail,
    /// Protobuf gets 415.
    Enc04NoProtobuf = "ENC-04" "no-protobuf" Info,
    /// JSON with a gzip body is read by preflight; the other stages return 415.
    Enc05PreflightOnly = "ENC-05" "preflight-only" Fail,
    /// A body in an unknown encoding is not read, and gets 200.
    Enc06NotRead = "ENC-06" "not-read" Fail,
    /// An unknown encoding gets 500.
    Enc06Error = "ENC-06" "error" Warning,
    /// Half of a compressed body gets 500.
    Enc07Error = "ENC-07" "error" Warning,
    /// Half of a compressed body gets no response: the server waits for the rest.
    Enc07Waits = "ENC-07" "waits" Warning,
    /// A broken message gets 200, in event upload too.
    Enc07Accepted = "ENC-07" "accepted" Warning,
    /// A message with an unknown member gets 400.
    Enc08Unknown = "ENC-08" "unknown" Fail,
    /// A whole number as text gets 500.
    Enc09NumberAsText = "ENC-09" "number-as-text" Warning,
    /// A host whose preflight has an empty `primary_user` gets every rule twice.
    Enc09EmptyMember = "ENC-09" "empty-member" Warning,
    /// A member that is null gets 400.
    Enc09Null = "ENC-09" "null" Info,
    /// An enum as a number gets 400.
    Enc09EnumAsNumber = "ENC-09" "enum-as-number" Info,
    /// A Content-Type with a charset gets 415.
    Enc09Charset = "ENC-09" "charset" Info,

    /// A machine id in upper case gets 404.
    Id01LowerCaseOnly = "ID-01" "lower-case-only" Fail,
    /// A machine id in upper case gets 400.
    Id01BadRequest = "ID-01" "bad-request" Fail,
    /// A machine id that is not a UUID gets 500.
    Id02Error = "ID-02" "error" Warning,
    /// A machine id that is not a UUID gets 403.
    Id02UuidOnly = "ID-02" "uuid-only" Info,
    /// A body without `machine_id` gets 400.
    Id03BodyMachineId = "ID-03" "body-machine-id" Warning,
    /// A machine that is not enrolled gets 200 with an error object.
    Id04Accepted = "ID-04" "accepted" Fail,
    /// A machine that is not enrolled gets 500.
    Id04Error = "ID-04" "error" Warning,
    /// The other stages return 500 to a machine that never did a preflight.
    Id05Error = "ID-05" "error" Warning,
    /// The other stages drop the connection of a machine that never did a preflight.
    Id05Closes = "ID-05" "closes" Warning,

    /// Preflight returns an array.
    Pre01Array = "PRE-01" "array" Fail,
    /// Preflight returns a page of HTML.
    Pre01Page = "PRE-01" "page" Fail,
    /// `batch_size` is a word.
    Pre02Word = "PRE-02" "word" Fail,
    /// `client_mode` is one that does not exist.
    Pre03Unknown = "PRE-03" "unknown" Fail,
    /// `client_mode` is left out.
    Pre03Absent = "PRE-03" "absent" Info,
    /// NORMAL is called INCREMENTAL, which does not exist.
    Pre04Unknown = "PRE-04" "unknown" Fail,
    /// Instead of NORMAL comes `CLEAN_FILE_ACCESS_RULES`.
    Pre04Partial = "PRE-04" "partial" Warning,
    /// Beside `sync_type` NORMAL comes `clean_sync` true.
    Pre04Contradiction = "PRE-04" "contradiction" Warning,
    /// The type is left out where it is NORMAL.
    Pre04Absent = "PRE-04" "absent" Info,
    /// `batch_size` is 100,000.
    Pre05BatchSize = "PRE-05" "batch-size" Warning,
    /// `full_sync_interval` is 5 seconds.
    Pre05Interval = "PRE-05" "interval" Warning,
    /// `removable_media_policy` blocks, `block_usb_mount` is false.
    Pre05Media = "PRE-05" "media" Warning,
    /// `event_detail_url` is not http.
    Pre05DetailUrl = "PRE-05" "detail-url" Warning,
    /// `blocked_path_regex` does not compile.
    Pre06Invalid = "PRE-06" "invalid" Fail,
    /// `blocked_path_regex` matches everything.
    Pre06MatchesAll = "PRE-06" "matches-all" Warning,
    /// `blocked_path_regex` is empty.
    Pre06Empty = "PRE-06" "empty" Info,
    /// Preflight requires `primary_user`, otherwise 400.
    Pre07Owner = "PRE-07" "owner" Fail,
    /// Preflight requires `rulesHash`, otherwise 400.
    Pre07RulesHash = "PRE-07" "rules-hash" Warning,
    /// Preflight with `primary_user_groups` gets 400.
    Pre08Groups = "PRE-08" "groups" Fail,
    /// Preflight in mode STANDALONE gets 500.
    Pre09Standalone = "PRE-09" "standalone" Fail,
    /// Preflight with a hostname or user beyond ASCII gets 500.
    Pre10NotAscii = "PRE-10" "not-ascii" Fail,
    /// Preflight with a version that is not dotted integers gets 500.
    Pre10Version = "PRE-10" "version" Warning,
    /// A repeated preflight is told NORMAL, and no rule follows.
    Pre11UsedUp = "PRE-11" "used-up" Fail,
    /// Each preflight of a machine but its first gets 500.
    Pre11Error = "PRE-11" "error" Fail,
    /// Settings come under their old names only.
    Pre12OldNames = "PRE-12" "old-names" Info,

    /// A client's wish for a clean sync is ignored once it has synced.
    Clean01Ignored = "CLEAN-01" "ignored" Fail,
    /// Each clean sync of a machine but its first lacks the last rule.
    Clean02Partial = "CLEAN-02" "partial" Fail,
    /// A new machine that wishes nothing gets no rules.
    Clean03NoRules = "CLEAN-03" "no-rules" Fail,
    /// A new machine that wishes nothing gets all rules as NORMAL.
    Clean03Normal = "CLEAN-03" "normal" Warning,
    /// Every sync is CLEAN.
    Clean04NeverEnds = "CLEAN-04" "never-ends" Fail,
    /// A clean sync the server began is not begun again after it broke off, and no rule follows.
    Clean05Forgotten = "CLEAN-05" "forgotten" Fail,
    /// After a clean sync of the server's that broke off, all rules come as NORMAL.
    Clean05Normal = "CLEAN-05" "normal" Warning,
    /// A NORMAL sync without changes removes a rule.
    Clean06Removes = "CLEAN-06" "removes" Fail,
    /// A NORMAL sync brings all rules.
    Clean06All = "CLEAN-06" "all" Warning,
    /// A NORMAL sync brings the last rule again.
    Clean06Some = "CLEAN-06" "some" Info,
    /// That a host has lost its rules goes unnoticed.
    Clean07Unnoticed = "CLEAN-07" "unnoticed" Info,
    /// A clean set with rules ends with a useless REMOVE.
    Clean08Useless = "CLEAN-08" "useless" Info,

    /// Rules is an object.
    Rule01Object = "RULE-01" "object" Fail,
    /// An empty set of rules is null.
    Rule01Null = "RULE-01" "null" Info,
    /// One rule more has no identifier.
    Rule02NoIdentifier = "RULE-02" "no-identifier" Fail,
    /// One rule more has an unknown policy.
    Rule02Policy = "RULE-02" "policy" Fail,
    /// The first rule of a page has a `button_label`, which is called `event_detail_button_label`.
    Rule02WrongName = "RULE-02" "wrong-name" Warning,
    /// The first rule of a page also has the members type and state.
    Rule02Names = "RULE-02" "names" Info,
    /// One rule more has a hash that is too short.
    Rule03Short = "RULE-03" "short" Fail,
    /// The first rule comes twice, first with another policy.
    Rule04Twice = "RULE-04" "twice" Warning,
    /// The first rule comes twice.
    Rule04Equal = "RULE-04" "equal" Info,
    /// A host whose preflight has no `primary_user` gets every rule twice.
    Rule04NoOwner = "RULE-04" "no-owner" Info,
    /// The first page has no rules when it is requested again.
    Rule05Empty = "RULE-05" "empty" Fail,
    /// Rules count as delivered once their last page has been sent.
    Rule06WhenSent = "RULE-06" "when-sent" Fail,
    /// A rule download outside a sync gets 500.
    Rule07Error = "RULE-07" "error" Fail,
    /// A rule download outside a sync gets 409.
    Rule07Refused = "RULE-07" "refused" Warning,
    /// A sync may take 60 seconds or `sync_time` of the style; later its requests get 409.
    Rule08Expires = "RULE-08" "expires" Fail,

    /// A cursor is a number.
    Page01Number = "PAGE-01" "number" Fail,
    /// The last page leads to itself.
    Page02Endless = "PAGE-02" "endless" Fail,
    /// A cursor has 5 KiB.
    Page02Long = "PAGE-02" "long" Warning,
    /// Each clean sync of a machine but its first lacks the first rule of the second page.
    Page03Gap = "PAGE-03" "gap" Fail,
    /// The last rule of a page comes again on the next one.
    Page03Double = "PAGE-03" "double" Warning,
    /// A page other than the first has no rules when it is requested again.
    Page04Empty = "PAGE-04" "empty" Fail,
    /// A cursor is unknown on any other connection.
    Page05Connection = "PAGE-05" "connection" Fail,
    /// A cursor is unknown after 5 seconds or `cursor_time` of the style.
    Page05Expires = "PAGE-05" "expires" Fail,
    /// An unknown cursor gets 500.
    Page06Error = "PAGE-06" "error" Warning,
    /// An unknown cursor gets an empty last page.
    Page06Empty = "PAGE-06" "empty" Warning,
    /// An unknown cursor leads to the first page.
    Page06Restart = "PAGE-06" "restart" Info,

    /// An upload with an execution without a user gets 400.
    Event01User = "EVENT-01" "user" Fail,
    /// An upload with a quarantined executable gets 500.
    Event02Quarantine = "EVENT-02" "quarantine" Fail,
    /// An upload with decision `BLOCK_BINARY_MISMATCH` gets 400.
    Event03Mismatch = "EVENT-03" "mismatch" Fail,
    /// An upload of file-access events alone gets 500.
    Event04Alone = "EVENT-04" "alone" Fail,
    /// An upload of audit events alone gets 400.
    Event05Alone = "EVENT-05" "alone" Warning,
    /// An upload with an emoji gets 500.
    Event06Emoji = "EVENT-06" "emoji" Fail,
    /// An upload with a certificate that is valid until 4294967295 gets 500.
    Event06ValidUntil = "EVENT-06" "valid-until" Fail,
    /// An upload with a path of 1,000 bytes or more gets 400.
    Event06LongPath = "EVENT-06" "long-path" Warning,
    /// An upload with an execution without hash, time or decision gets 400.
    Event07Missing = "EVENT-07" "missing" Warning,
    /// An upload of more than half a batch gets 413.
    Event08TooLarge = "EVENT-08" "too-large" Fail,
    /// An event that came before gets 409.
    Event09Conflict = "EVENT-09" "conflict" Fail,
    /// Event upload returns an array.
    Event10Array = "EVENT-10" "array" Fail,
    /// `event_upload_bundle_binaries` is a text.
    Event10Bundles = "EVENT-10" "bundles" Fail,
    /// An event upload outside a sync gets 409.
    Event11Refused = "EVENT-11" "refused" Fail,
    /// An event upload on another connection ends the download in progress: no more rules follow.
    Event12Ends = "EVENT-12" "ends" Fail,
    /// A bundle's binaries are requested, and refused with 400.
    Event13Refused = "EVENT-13" "refused" Fail,

    /// Postflight returns an array.
    Post01Array = "POST-01" "array" Fail,
    /// Postflight with `CLEAN_ALL` gets 400 where CLEAN was announced.
    Post02CleanAll = "POST-02" "clean-all" Fail,
    /// Postflight of a sync without rules gets 400.
    Post02NoCounts = "POST-02" "no-counts" Fail,
    /// Postflight without a sync type gets 400.
    Post02OlderForm = "POST-02" "older-form" Warning,
    /// A repeated postflight gets 409.
    Post03Conflict = "POST-03" "conflict" Fail,
    /// A repeated postflight makes the next sync CLEAN.
    Post03Clean = "POST-03" "clean" Warning,
    /// Postflight without a rule download gets 500.
    Post04Error = "POST-04" "error" Warning,
    /// Postflight without a rule download counts as delivery.
    Post04Counts = "POST-04" "counts" Warning,
    /// Postflight that processed none of the rules gets 500.
    Post04Unprocessed = "POST-04" "unprocessed" Warning,

    /// There is one download for all machines: another machine's preflight ends it.
    Iso01OneDownload = "ISO-01" "one-download" Fail,
    /// A new machine that reports the rules of another counts as synced.
    Iso02Counts = "ISO-02" "counts" Fail,
    /// Preflight gets 500 while another machine's is being answered, which takes 60 ms.
    Iso03Busy = "ISO-03" "busy" Fail,
    /// A machine's postflight counts for every machine that has its rules.
    Iso04Postflight = "ISO-04" "postflight" Fail,

    /// Event upload returns 200 with an error object.
    Err01Accepted = "ERR-01" "accepted" Fail,
    /// Every refusal is a 500.
    Err02Errors = "ERR-02" "errors" Info,
    /// No credential is checked.
    Err03Unchecked = "ERR-03" "unchecked" Fail,
    /// A wrong credential gets 500.
    Err03Error = "ERR-03" "error" Warning,
    /// Stages require a token, and refuse every one.
    Err04Useless = "ERR-04" "useless" Fail,
    /// xsrf returns 200 without a token.
    Err04NoToken = "ERR-04" "no-token" Warning,
    /// xsrf returns 500.
    Err04Error = "ERR-04" "error" Warning,

    /// Added and changed rules are left out of NORMAL syncs.
    Ops01Lost = "OPS-01" "lost" Fail,
    /// REMOVE is left out of NORMAL syncs.
    Ops02NoRemove = "OPS-02" "no-remove" Fail,
    /// Changes count as delivered once they have been sent.
    Ops03Once = "OPS-03" "once" Fail,
    /// A clean sync the administrator requested is forgotten at the preflight.
    Ops04Eaten = "OPS-04" "eaten" Warning,
    /// Events are accepted and dropped.
    Ops05Dropped = "OPS-05" "dropped" Fail,
    /// File-access events are accepted and dropped.
    Ops05FileAccess = "OPS-05" "file-access" Fail,
    /// The time of the last sync is not recorded.
    Ops05NoTime = "OPS-05" "no-time" Warning,
    /// A change reaches the first machine that syncs, and no other.
    Ops06First = "OPS-06" "first" Fail,
}

/// Why a text names no misbehaviour.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is neither a requirement, as CLEAN-04, nor a misbehaviour, as clean-04-never-ends; \
     `list` prints all"
)]
pub struct UnknownMisbehaviour(String);

impl Misbehaviour {
    /// The requirement that it breaks, as `CLEAN-04`.
    #[must_use]
    pub const fn requirement(self) -> &'static str {
        self.entry().requirement
    }

    /// The name on the command line and in scenarios, as `clean-04-never-ends`.
    #[must_use]
    pub fn name(self) -> String {
        let Entry { requirement, slug, .. } = self.entry();
        format!("{}-{slug}", requirement.to_ascii_lowercase())
    }

    /// How badly it breaks the requirement.
    #[must_use]
    pub const fn severity(self) -> Severity {
        self.entry().severity
    }

    /// What the server does, in a sentence.
    #[must_use]
    pub fn does(self) -> &'static str {
        self.entry().does.trim()
    }
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

/// Reads a name, or a requirement, which stands for the plainest way to break it.
impl FromStr for Misbehaviour {
    type Err = UnknownMisbehaviour;

    fn from_str(text: &str) -> Result<Self, UnknownMisbehaviour> {
        let named = |m: &&Self| {
            m.requirement().eq_ignore_ascii_case(text) || m.name().eq_ignore_ascii_case(text)
        };
        Self::ALL.iter().find(named).copied().ok_or_else(|| UnknownMisbehaviour(text.to_owned()))
    }
}

/// The misbehaviours in force.
#[derive(Clone, Debug, Default)]
pub(super) struct Misbehaviours(Vec<Misbehaviour>);

impl Misbehaviours {
    pub(super) fn add(&mut self, misbehaviour: Misbehaviour) {
        if !self.does(misbehaviour) {
            self.0.push(misbehaviour);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Misbehaviour> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn does(&self, misbehaviour: Misbehaviour) -> bool {
        self.0.contains(&misbehaviour)
    }

    fn does_any(&self, of: &[Misbehaviour]) -> bool {
        of.iter().any(|misbehaviour| self.does(*misbehaviour))
    }
}

#[cfg(test)]
mod tests;
