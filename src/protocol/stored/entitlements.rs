//! Entitlements: any property list value, sent as JSON text, within bounds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::super::archive::{ArchiveError, ArchivedObject, ArchivedPairs, ArchivedValue};
use super::super::wire;

/// The most entitlements sent.
const MAX_ENTRIES: usize = 64;
/// The deepest nesting sent, a value that is not a collection being one level.
const MAX_DEPTH: u32 = 5;

const ISO_8601: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The entitlements of an execution. Always present: the flag says whether
/// something was left out, here or before.
pub(super) fn info(event: &ArchivedObject<'_>) -> Result<wire::EntitlementInfo, ArchiveError> {
    let mut entitlements = Vec::new();
    let mut clip = Clip { clipped: event.flag("entitlementsFiltered")? };
    if let Some(pairs) = event.dictionary("entitlements")? {
        for pair in pairs.iter() {
            if entitlements.len() == MAX_ENTRIES {
                clip.clipped = true;
                break;
            }
            let (key, value) = pair?;
            let ArchivedValue::Text(key) = key else {
                return Err(event.kind("entitlements", &key, "a dictionary with text for keys"));
            };
            let value = clip.json(value, MAX_DEPTH)?;
            entitlements.push(wire::Entitlement {
                key: Some(key.to_owned()),
                value: Some(value.to_string()),
            });
        }
    }
    Ok(wire::EntitlementInfo { entitlements_filtered: Some(clip.clipped), entitlements })
}

/// Whether something was left out.
struct Clip {
    clipped: bool,
}

impl Clip {
    /// The JSON form of a value; null stands for what is left out.
    fn json(&mut self, node: ArchivedValue<'_>, depth: u32) -> Result<Value, ArchiveError> {
        Ok(match node {
            ArchivedValue::Text(text) => Value::String(text.to_owned()),
            ArchivedValue::Bytes(bytes) => Value::String(STANDARD.encode(bytes)),
            ArchivedValue::Flag(flag) => Value::Bool(flag),
            ArchivedValue::Whole(number) => {
                Number::from_i128(number).map_or(Value::Null, Value::Number)
            }
            ArchivedValue::Real(number) => {
                Number::from_f64(number).map_or(Value::Null, Value::Number)
            }
            ArchivedValue::Date(seconds) => date(seconds).map_or(Value::Null, Value::String),
            ArchivedValue::List(_) | ArchivedValue::Dictionary(_) | ArchivedValue::Object(_)
                if depth <= 1 =>
            {
                self.leave_out()
            }
            ArchivedValue::List(list) => {
                let mut elements = Vec::new();
                for element in list.iter() {
                    elements.push(self.json(element?, depth - 1)?);
                }
                Value::Array(elements)
            }
            ArchivedValue::Dictionary(pairs) => Value::Object(self.object(pairs, depth)?),
            ArchivedValue::Object(_) => self.leave_out(),
        })
    }

    fn object(
        &mut self,
        pairs: ArchivedPairs<'_>,
        depth: u32,
    ) -> Result<Map<String, Value>, ArchiveError> {
        let mut map = Map::new();
        for pair in pairs.iter() {
            let (ArchivedValue::Text(key), value) = pair? else {
                self.clipped = true;
                continue;
            };
            map.insert(key.to_owned(), self.json(value, depth - 1)?);
        }
        Ok(map)
    }

    fn leave_out(&mut self) -> Value {
        self.clipped = true;
        Value::Null
    }
}

fn date(seconds: f64) -> Option<String> {
    #[expect(clippy::cast_possible_truncation, reason = "out of range is no date and is refused")]
    let millis = (seconds * 1000.0).round() as i128;
    let time = OffsetDateTime::from_unix_timestamp_nanos(millis.checked_mul(1_000_000)?).ok()?;
    time.format(ISO_8601).ok()
}
