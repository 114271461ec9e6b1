//! Rule pages in binary protobuf.

use super::{MAX_RULE_BYTES, PageReader, RuleError};
use crate::model::Cursor;
use crate::protocol::binary::{self, FieldValue};
use crate::protocol::body::{self, BodyError, MAX_CURSOR_BYTES, ResponseBody};
use crate::protocol::json::Message as _;
use crate::protocol::lenient::Notes;
use crate::protocol::wire::RuleDownloadResponse;

fn not_protobuf(reason: &str) -> BodyError {
    BodyError::NotProtobuf { message: RuleDownloadResponse::NAME, reason: body::shown(reason) }
}

/// Reads the two fields of a page off the binary form, one rule at a time.
pub(super) fn read(
    reader: &mut PageReader<'_>,
    received: &ResponseBody<'_>,
) -> Result<(), BodyError> {
    let mut body = received.binary(RuleDownloadResponse::NAME)?;
    reader.page.without_body = body.is_empty() && !received.is_named_protobuf();
    let mut found = body.is_empty();
    while let Some(entry) = binary::next_entry(RuleDownloadResponse::FIELDS, &mut body)
        .map_err(|reason| not_protobuf(&reason))?
    {
        found = true;
        match (entry.field.name, entry.value) {
            ("cursor", FieldValue::Block(text)) => reader.page.cursor = cursor(text)?,
            ("rules", FieldValue::Block(rule)) => {
                reader.count()?;
                take_rule(reader, rule);
            }
            // The message has no other field.
            _ => {}
        }
    }
    if found { Ok(()) } else { Err(not_protobuf("it has none of its fields")) }
}

/// One that is not UTF-8 is an error: without it the page would pass for the
/// last.
fn cursor(field: &[u8]) -> Result<Option<Cursor>, BodyError> {
    if field.len() > MAX_CURSOR_BYTES {
        return Err(BodyError::CursorTooLong(field.len()));
    }
    let text = str::from_utf8(field).map_err(|_| not_protobuf("the cursor is not UTF-8"))?;
    Ok(Cursor::new(text.to_owned()))
}

fn take_rule(reader: &mut PageReader<'_>, field: &[u8]) {
    if field.len() > MAX_RULE_BYTES {
        return reader.reject("", RuleError::TooLarge.to_string());
    }
    let mut notes = Notes::rule(false);
    match binary::decode_with(field, &mut notes) {
        Ok(rule) => reader.take(rule, notes),
        Err(reason) => reader.reject_shape("", &reason),
    }
}
