//! What a misbehaving server's responses look like.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Misbehaviour, Misbehaviours};
use crate::harness::reply::{Form, Refusal, Reply, page};
use crate::harness::script::{Script, Wait, cut_short};
use crate::harness::style::Encoding;
use crate::harness::tls::CertificateFlaw;
use crate::model::Stage;

/// How long [`Misbehaviour::Iso03Busy`] is busy with a preflight.
pub(in crate::harness) const BUSY: Duration = Duration::from_millis(200);

/// How late [`Misbehaviour::Http03Slow`] is.
const SLOW: Duration = Duration::from_secs(11);

/// The idle limit of [`Misbehaviour::Http05ClosesIdle`].
const IDLE: Duration = Duration::from_secs(2);

impl Misbehaviours {
    /// How long a connection may be idle; `None` is for ever.
    pub(in crate::harness) fn idle_limit(&self) -> Option<Duration> {
        self.does(Misbehaviour::Http05ClosesIdle).then_some(IDLE)
    }

    /// What is wrong with the server's certificate. Any flaw makes it use https.
    pub(in crate::harness) fn certificate_flaw(&self) -> Option<CertificateFlaw> {
        let flaws = [
            (Misbehaviour::Http04Expired, CertificateFlaw::Expired),
            (Misbehaviour::Http04WrongName, CertificateFlaw::WrongName),
            (Misbehaviour::Http04IncompleteChain, CertificateFlaw::IncompleteChain),
            (Misbehaviour::Http04ExpiresSoon, CertificateFlaw::ExpiresSoon),
        ];
        flaws.into_iter().find(|(which, _)| self.does(*which)).map(|(_, flaw)| flaw)
    }

    /// What the response of a stage waits for.
    pub(in crate::harness) fn wait(&self, stage: Stage) -> Wait {
        if self.does(Misbehaviour::Http03Slow) && stage == Stage::Postflight {
            Wait::For(SLOW)
        } else if self.does(Misbehaviour::Iso03Busy) && stage == Stage::Preflight {
            Wait::For(BUSY)
        } else {
            Wait::Nothing
        }
    }

    /// The form in which a request of that form is answered.
    pub(in crate::harness) fn answers_in(&self, form: Form) -> Form {
        if self.does(Misbehaviour::Enc04Json) { Form::Json } else { form }
    }

    /// Changes the settings of preflight, in the schema's spelling. `is_normal` is
    /// the type of the sync. Returns whether anything has changed.
    pub(in crate::harness) fn settings(&self, settings: &mut Value, is_normal: bool) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let before = settings.clone();
        self.change_settings(settings, is_normal);
        *settings != before
    }

    fn change_settings(&self, settings: &mut Value, is_normal: bool) {
        let mut set = |which, name: &str, value: Value| {
            if self.does(which) {
                settings[name] = value;
            }
        };
        set(Misbehaviour::Pre02Word, "batchSize", json!("fifty"));
        set(Misbehaviour::Pre03Unknown, "clientMode", json!("AUDIT"));
        set(Misbehaviour::Pre05BatchSize, "batchSize", json!(100_000));
        set(Misbehaviour::Pre05Interval, "full_sync_interval", json!(5));
        set(Misbehaviour::Pre05Media, "removableMediaPolicy", json!({"block": true}));
        set(Misbehaviour::Pre05Media, "blockUsbMount", json!(false));
        set(Misbehaviour::Pre05DetailUrl, "eventDetailUrl", json!("file:///etc/motd"));
        set(Misbehaviour::Pre06Invalid, "blockedPathRegex", json!("^/opt/(.*"));
        set(Misbehaviour::Pre06MatchesAll, "blockedPathRegex", json!(".*"));
        set(Misbehaviour::Pre06Empty, "blockedPathRegex", json!(""));
        if is_normal {
            set(Misbehaviour::Pre04Unknown, "syncType", json!("INCREMENTAL"));
            set(Misbehaviour::Pre04Partial, "syncType", json!("CLEAN_FILE_ACCESS_RULES"));
            set(Misbehaviour::Pre04Contradiction, "clean_sync", json!(true));
        }
        let Some(settings) = settings.as_object_mut() else { return };
        if self.does(Misbehaviour::Pre03Absent) {
            settings.remove("clientMode");
        }
        if self.does(Misbehaviour::Pre04Absent) && is_normal {
            settings.remove("syncType");
        }
        if self.does(Misbehaviour::Pre12OldNames) {
            for (new, old, default) in [
                ("enableBundles", "bundles_enabled", json!(false)),
                ("enableTransitiveRules", "enabled_transitive_whitelisting", json!(false)),
                ("allowedPathRegex", "whitelist_regex", json!("^/opt/approved/.*")),
            ] {
                let value = settings.remove(new).unwrap_or(default);
                settings.insert(old.to_owned(), value);
            }
        }
    }

    /// The message of a response.
    pub(in crate::harness) fn message(&self, stage: Stage, form: Form, body: Bytes) -> Bytes {
        let instead = match stage {
            _ if form == Form::Protobuf => None,
            Stage::Preflight if self.does(Misbehaviour::Pre01Array) => {
                return [b"[".as_slice(), &body, b"]"].concat().into();
            }
            Stage::EventUpload => self.upload_instead(),
            Stage::RuleDownload => return self.rule_page(body),
            Stage::Postflight if self.does(Misbehaviour::Post01Array) => Some(json!([])),
            Stage::Preflight | Stage::Postflight => None,
        };
        instead.map_or(body, |value| value.to_string().into())
    }

    fn upload_instead(&self) -> Option<Value> {
        if self.does(Misbehaviour::Event10Array) {
            Some(json!([]))
        } else if self.does(Misbehaviour::Event10Bundles) {
            Some(json!({"event_upload_bundle_binaries": "all"}))
        } else if self.does(Misbehaviour::Err01Accepted) {
            Some(json!({"error": "the database is locked"}))
        } else {
            None
        }
    }

    fn rule_page(&self, body: Bytes) -> Bytes {
        let of_pages = [
            Misbehaviour::Rule01Object,
            Misbehaviour::Rule01Null,
            Misbehaviour::Rule02WrongName,
            Misbehaviour::Rule02Names,
        ];
        if !self.does_any(&of_pages) {
            return body;
        }
        let Ok(mut page) = serde_json::from_slice::<Value>(&body) else { return body };
        let Some(rules) = page.get_mut("rules") else { return body };
        let is_empty = rules.as_array().is_none_or(Vec::is_empty);
        if self.does(Misbehaviour::Rule01Object) {
            *rules = json!({ "list": rules });
        } else if self.does(Misbehaviour::Rule01Null) && is_empty {
            *rules = Value::Null;
        } else if self.does(Misbehaviour::Rule02WrongName)
            && let Some(rule) = rules.get_mut(0)
        {
            rule["button_label"] = json!("Ask the help desk");
        } else if self.does(Misbehaviour::Rule02Names)
            && let Some(rule) = rules.get_mut(0)
        {
            rule["type"] = json!("BINARY");
            rule["state"] = json!("ALLOW");
        }
        page.to_string().into()
    }

    /// The response of a stage to a request that was served.
    pub(in crate::harness) fn reply(
        &self,
        stage: Stage,
        mut reply: Reply,
    ) -> Result<Script, Refusal> {
        if self.does(Misbehaviour::Http08Gzip)
            && !reply.body.is_empty()
            && !reply.headers.iter().any(|(name, _)| name == "Content-Encoding")
        {
            let body = Encoding::Gzip.encode(reply.body.to_vec());
            reply.body = body.map_err(|error| Refusal::new(500, error.to_string()))?.into();
            reply.set("Content-Encoding", "gzip");
        }
        if self.does(Misbehaviour::Http08Label) {
            reply.set("Content-Type", "text/plain; charset=utf-8");
        }
        match stage {
            Stage::Preflight if self.does(Misbehaviour::Pre01Page) => {
                reply = Reply::new(200, "text/html; charset=utf-8", page("Sign in"));
            }
            Stage::Postflight if self.does(Misbehaviour::Http01Created) => reply.status = 201,
            Stage::Postflight if self.does(Misbehaviour::Http01NoContent) => {
                reply = Reply::new(204, "", "");
            }
            Stage::Postflight if self.does(Misbehaviour::Http03Cut) => {
                return Ok(cut_short(&reply));
            }
            Stage::Preflight | Stage::EventUpload | Stage::RuleDownload | Stage::Postflight => {}
        }
        Ok(Script::Whole(reply))
    }
}
