//! Reading a response in binary protobuf.
//!
//! Nearly any text is a well-formed message of unknown fields, and two bytes
//! may make an element of 24 in memory. So each field is looked at by its
//! descriptor before prost sees it, and only what passes is merged into the
//! message: nothing that is dropped is ever held.

#[cfg(test)]
mod tests;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::body::{BodyError, DecodedBody, shown};
use super::json::{Field, Message, Shape, UNKNOWN_ENUM_VALUE};
use super::lenient::Notes;

/// The most bytes of a nested message, after what cannot be read was
/// dropped.
const MAX_NESTED_BYTES: usize = 8 << 20;

/// The fields of an entry of a map of texts.
const MAP_ENTRY: &[Field] = &[entry_field(1, "key"), entry_field(2, "value")];

const fn entry_field(number: u32, name: &'static str) -> Field {
    Field {
        number,
        name,
        key: "",
        shape: Shape::Text,
        direct: false,
        repeated: false,
        presence: false,
    }
}

/// Why bytes are not the message they should be.
pub(super) type Reason = String;

/// Decodes a message; an empty body is the message with every field absent.
///
/// # Errors
/// If a field is of another wire type than the message's, or a body that is not
/// empty holds no field of the message.
pub(super) fn decode<M>(body: &[u8]) -> Result<DecodedBody<M>, BodyError>
where
    M: prost::Message + Message,
{
    let mut notes = Notes::response(false);
    let mut message = M::default();
    let read = read_fields(M::FIELDS, body, &mut notes, &mut |field| {
        message.merge(field).map_err(|error| error.to_string())
    });
    let read = read.and_then(|found| {
        if found || body.is_empty() { Ok(()) } else { Err("it has none of its fields".into()) }
    });
    match read {
        Ok(()) => Ok(DecodedBody { message, warnings: notes.into_warnings() }),
        Err(reason) => Err(BodyError::NotProtobuf { message: M::NAME, reason: shown(&reason) }),
    }
}

/// Decodes a message into which `notes` have a say.
///
/// # Errors
/// If a field is of another wire type than the message's.
pub(super) fn decode_with<M>(body: &[u8], notes: &mut Notes) -> Result<M, Reason>
where
    M: prost::Message + Message,
{
    // Nearly always nothing is dropped, and all can be read in one go.
    let mut kept = 0;
    read_fields(M::FIELDS, body, notes, &mut |field| {
        kept += field.len();
        Ok(())
    })?;
    if kept == body.len() && notes.is_clean() {
        return M::decode(body).map_err(|error| error.to_string());
    }
    let mut message = M::default();
    read_fields(M::FIELDS, body, &mut Notes::like(notes), &mut |field| {
        message.merge(field).map_err(|error| error.to_string())
    })?;
    Ok(message)
}

/// Hands the bytes of each field that can be read to `take`: key and value.
/// Returns whether there was any field of the message.
fn read_fields(
    fields: &[Field],
    mut body: &[u8],
    notes: &mut Notes,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Reason>,
) -> Result<bool, Reason> {
    let mut found = false;
    while let Some(entry) = next_entry(fields, &mut body)? {
        found = true;
        notes.enter(entry.field.name);
        let read = read_value(&entry, notes, take);
        notes.leave();
        read?;
    }
    Ok(found)
}

/// A field of a message as it stands in a body.
pub(super) struct Entry<'f, 'a> {
    pub(super) field: &'f Field,
    pub(super) value: FieldValue<'a>,
    key: &'a [u8],
    /// Key and value.
    whole: &'a [u8],
}

/// Splits the next of these fields off a body; passes over unknown ones.
///
/// # Errors
/// If the body breaks off, or the field is of another wire type.
pub(super) fn next_entry<'f, 'a>(
    fields: &'f [Field],
    body: &mut &'a [u8],
) -> Result<Option<Entry<'f, 'a>>, Reason> {
    while !body.is_empty() {
        let start = *body;
        let (number, wire_type) = decode_key(body).map_err(|error| error.to_string())?;
        let key = &start[..start.len() - body.len()];
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            skip_field(wire_type, number, body, DecodeContext::default())
                .map_err(|error| error.to_string())?;
            continue;
        };
        if wire_type != expected(&field.shape) {
            return Err(format!("{} is of wire type {wire_type:?}", field.name));
        }
        let value = split_value(wire_type, body)?;
        let whole = &start[..start.len() - body.len()];
        return Ok(Some(Entry { field, value, key, whole }));
    }
    Ok(None)
}

const fn expected(shape: &Shape) -> WireType {
    match shape {
        Shape::Text | Shape::Nested(_) | Shape::Map => WireType::LengthDelimited,
        Shape::Bool | Shape::U32 | Shape::I32 | Shape::Enum(_) => WireType::Varint,
        Shape::F64 => WireType::SixtyFourBit,
    }
}

/// The value of a field.
#[derive(Clone, Copy)]
pub(super) enum FieldValue<'a> {
    Number(u64),
    Block(&'a [u8]),
}

fn split_value<'a>(wire_type: WireType, body: &mut &'a [u8]) -> Result<FieldValue<'a>, Reason> {
    let mut number = || decode_varint(body).map_err(|error| error.to_string());
    if wire_type == WireType::Varint {
        return number().map(FieldValue::Number);
    }
    // The only other one is of 64 bits.
    let length = if wire_type == WireType::LengthDelimited { number()? } else { 8 };
    let split = usize::try_from(length).ok().and_then(|length| body.split_at_checked(length));
    let (block, rest) = split.ok_or("it breaks off")?;
    *body = rest;
    Ok(FieldValue::Block(block))
}

/// Hands a field to `take` if it can be read, else notes it.
fn read_value(
    entry: &Entry<'_, '_>,
    notes: &mut Notes,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let Entry { field, value, key, whole } = *entry;
    if field.repeated && !notes.count_element(whole.len()) {
        return Ok(());
    }
    match (&field.shape, value) {
        (Shape::Text, FieldValue::Block(text)) => {
            let limit = notes.text_limit();
            if text.len() > limit {
                notes.refuse_text(&start(text), &format!("is longer than {limit} bytes"));
            } else if str::from_utf8(text).is_err() {
                notes.refuse_text(&start(text), "is not UTF-8");
            } else {
                take(whole)?;
            }
        }
        (Shape::Enum(names), FieldValue::Number(number)) => {
            let known = int32(number).is_some_and(|n| names.iter().any(|(_, of)| *of == n));
            if known {
                take(whole)?;
            } else {
                notes.warn(&number.cast_signed().to_string(), UNKNOWN_ENUM_VALUE);
                take(&[key, &[0]].concat())?;
            }
        }
        (Shape::U32, FieldValue::Number(number)) if u32::try_from(number).is_err() => {
            notes.unreadable(&number.to_string());
        }
        (Shape::I32, FieldValue::Number(number)) if int32(number).is_none() => {
            notes.unreadable(&number.cast_signed().to_string());
        }
        (Shape::Nested(fields), FieldValue::Block(block)) => {
            nested(fields, key, block, notes, take)?;
        }
        (Shape::Map, FieldValue::Block(block)) => nested(MAP_ENTRY, key, block, notes, take)?,
        (Shape::Bool | Shape::U32 | Shape::I32 | Shape::F64, _) => take(whole)?,
        // The wire type has been checked.
        (Shape::Text | Shape::Enum(_) | Shape::Nested(_) | Shape::Map, _) => {}
    }
    Ok(())
}

fn nested(
    fields: &[Field],
    key: &[u8],
    block: &[u8],
    notes: &mut Notes,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let mut kept = Vec::new();
    let mut too_long = false;
    read_fields(fields, block, notes, &mut |field| {
        too_long |= kept.len() + field.len() > MAX_NESTED_BYTES;
        if !too_long {
            kept.extend_from_slice(field);
        }
        Ok(())
    })?;
    if too_long {
        notes.warn("", format!("longer than {MAX_NESTED_BYTES} bytes; treated as absent"));
        return Ok(());
    }
    let mut whole = key.to_vec();
    prost::encoding::encode_varint(kept.len() as u64, &mut whole);
    whole.append(&mut kept);
    take(&whole)
}

/// A number of an int32 or enum field, which is of 64 bits on the wire.
fn int32(number: u64) -> Option<i32> {
    i32::try_from(number.cast_signed()).ok()
}

/// The start of a text that may not be one, to show.
fn start(text: &[u8]) -> String {
    String::from_utf8_lossy(text.get(..256).unwrap_or(text)).into_owned()
}
