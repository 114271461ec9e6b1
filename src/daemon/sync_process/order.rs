//! The protocol between the daemon and the process of a sync: an order on the
//! process's standard input, and messages, a JSON object per line, on its
//! standard output.

use plist::{Dictionary, Value};
use serde::{Deserialize, Serialize};

use super::summary::StoreSummary;
use crate::config::Effective;
use crate::model::{SyncRecord, SyncType, Trigger};
use crate::sync::progress::SyncStep;
use crate::sync::upload::UploadReport;

/// A message from the process of a sync to the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum ChildMessage {
    /// Something happened.
    Step(SyncStep),
    /// Users wait for this rule.
    Notification {
        /// The application's name.
        application: String,
        /// The identifier of the rule.
        identifier: String,
    },
    /// It waits for a sync of another process to end.
    InLine {
        /// That process, if it is known.
        behind: Option<u32>,
    },
    /// It holds the state directory: the sync begins.
    Begun,
    /// The process panics.
    Panicked {
        /// The message and location of the panic.
        message: String,
    },
    /// The upload has ended.
    Uploaded {
        /// What came of it.
        report: UploadReport,
        /// How the stores stand, if they could be read.
        summary: Option<Box<StoreSummary>>,
    },
    /// The sync has ended.
    Ended {
        /// Its record.
        record: Box<SyncRecord>,
        /// How the stores stand, if they could be read.
        summary: Option<Box<StoreSummary>>,
    },
}

/// What a process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A sync.
    Sync(SyncOrder),
    /// An upload of what waits in the event queue (EV-10).
    Upload,
}

/// The sync a process is to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncOrder {
    /// What it was started by.
    pub trigger: Trigger,
    /// The clean sync to request.
    pub clean: Option<SyncType>,
}

/// Encodes an order and the configuration in effect: a length of four bytes, then a
/// property list of that length.
#[must_use]
pub(in crate::daemon) fn encode(order: Order, config: &Effective) -> Vec<u8> {
    let mut values = Dictionary::new();
    for (key, chosen) in config.iter() {
        values.insert(key.name.to_owned(), chosen.value.clone());
    }
    let mut list = Dictionary::new();
    match order {
        Order::Sync(errand) => {
            let trigger = match errand.trigger {
                Trigger::Timer => "timer",
                Trigger::Manual => "manual",
                Trigger::Trigger => "trigger",
            };
            list.insert("trigger".to_owned(), Value::from(trigger));
            if let Some(clean) = errand.clean {
                list.insert("clean".to_owned(), Value::from(clean.name()));
            }
        }
        Order::Upload => {
            list.insert("upload".to_owned(), Value::from(true));
        }
    }
    list.insert("config".to_owned(), Value::Dictionary(values));
    let mut bytes = vec![0; 4];
    // Writing values to memory cannot fail; a short order is refused.
    let _ = Value::Dictionary(list).to_writer_binary(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).unwrap_or(0).to_be_bytes();
    bytes.splice(..4, length);
    bytes
}

/// What [`encode`] wrote, without the length; `None` if the bytes are not an order.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<(Order, Dictionary)> {
    let Value::Dictionary(mut list) = crate::plist_bounded::read_plist(bytes).ok()? else {
        return None;
    };
    let Value::Dictionary(config) = list.remove("config")? else { return None };
    if list.get("upload").and_then(Value::as_boolean) == Some(true) {
        return Some((Order::Upload, config));
    }
    let trigger = match list.get("trigger")?.as_string()? {
        "timer" => Trigger::Timer,
        "manual" => Trigger::Manual,
        "trigger" => Trigger::Trigger,
        _ => return None,
    };
    let clean = match list.get("clean").map(|clean| clean.as_string()) {
        None => None,
        Some(Some("CLEAN")) => Some(SyncType::Clean),
        Some(Some("CLEAN_ALL")) => Some(SyncType::CleanAll),
        Some(_) => return None,
    };
    Some((Order::Sync(SyncOrder { trigger, clean }), config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Layer, Source};

    #[test]
    fn an_order_arrives_as_it_was_given() {
        let mut values = Dictionary::new();
        values.insert("SyncBaseURL".to_owned(), Value::from("https://host/"));
        values.insert("ServerAuthRootsData".to_owned(), Value::Data(vec![1, 2, 3]));
        values.insert("SyncDeadline".to_owned(), Value::from(90));
        let layer = Layer {
            source: Source::CommandLine,
            domain: None,
            values: values.clone(),
            exposed: false,
        };
        let effective = Config::resolve(&[layer]).effective;
        let errand = SyncOrder { trigger: Trigger::Trigger, clean: Some(SyncType::CleanAll) };
        let order = encode(Order::Sync(errand), &effective);
        let (length, order) = order.split_at(4);
        assert_eq!(u32::from_be_bytes(length.try_into().expect("4")) as usize, order.len());
        assert_eq!(decode(order), Some((Order::Sync(errand), values.clone())));
        let upload = encode(Order::Upload, &effective);
        assert_eq!(decode(&upload[4..]), Some((Order::Upload, values)));
        assert_eq!(decode(b"<plist/>"), None);
    }
}
