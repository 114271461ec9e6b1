//! Rule pages in binary protobuf.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{MAX_RULE_BYTES, PageReader, RuleError};
use crate::model::Cursor;
use crate::protocol::binary;
use crate::protocol::body::{self, BodyError, MAX_CURSOR_BYTES, ResponseBody};
use crate::protocol::notes::Notes;

const MESSAGE: &str = "RuleDownloadResponse";
/// The numbers of the two fields.
const RULES_FIELD: u32 = 1;
const CURSOR_FIELD: u32 = 2;

fn not_protobuf(reason: &str) -> BodyError {
    BodyError::NotProtobuf { message: MESSAGE, reason: body::shown(reason) }
}

/// Reads the two fields of a page off the binary form, one rule at a time.
pub(super) fn read(
    reader: &mut PageReader<'_>,
    received: &ResponseBody<'_>,
) -> Result<(), BodyError> {
    let damaged = |error: prost::DecodeError| not_protobuf(&error.to_string());
    let mut body = received.binary(MESSAGE)?;
    reader.page.without_body = body.is_empty() && !received.is_named_protobuf();
    let mut found = body.is_empty();
    while !body.is_empty() {
        let (number, wire_type) = decode_key(&mut body).map_err(damaged)?;
        if !matches!(number, RULES_FIELD | CURSOR_FIELD) {
            skip_field(wire_type, number, &mut body, DecodeContext::default()).map_err(damaged)?;
            continue;
        }
        if wire_type != WireType::LengthDelimited {
            let reason = format!("field {number} is of wire type {wire_type:?}");
            return Err(not_protobuf(&reason));
        }
        found = true;
        let length = decode_varint(&mut body).map_err(damaged)?;
        let split = usize::try_from(length).ok().and_then(|length| body.split_at_checked(length));
        let (field, rest) = split.ok_or_else(|| not_protobuf("it breaks off"))?;
        body = rest;
        if number == CURSOR_FIELD {
            reader.page.cursor = cursor(field)?;
        } else {
            reader.count()?;
            rule(reader, field);
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

fn rule(reader: &mut PageReader<'_>, field: &[u8]) {
    if field.len() > MAX_RULE_BYTES {
        return reader.reject("", RuleError::TooLarge.to_string());
    }
    let mut notes = Notes::rule(false);
    match binary::decode_with(field, &mut notes) {
        Ok(rule) => reader.take(rule, notes),
        Err(reason) => reader.reject_shape("", &reason),
    }
}
