//! From a message in binary protobuf straight to its JSON form, field by field,
//! without the message in between.
//!
//! Only for what prost writes itself: fields in the order of their numbers,
//! each singular one once. For anything else nothing is written, and decoding the
//! message shows what it means, or that it is damaged.

use super::kinds::F64;
use super::{FieldKind, Write};

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// Its name in settings and warnings.
    pub name: &'static str,
    /// Its JSON name in quotation marks, and a colon.
    pub key: &'static str,
    /// What its values are.
    pub shape: Shape,
    /// Whether its values can be written without the message in between. A
    /// message with any other field takes the long way.
    pub direct: bool,
    /// Whether there may be several.
    pub repeated: bool,
    /// Whether a value is written even if it is what an absent one stands for.
    pub presence: bool,
}

impl Field {
    /// `None` for one that may be written although it is absent.
    const fn may_be_absent(&self) -> Option<()> {
        if self.direct { Some(()) } else { None }
    }
}

/// What the values of a field are.
#[derive(Debug)]
pub enum Shape {
    /// A string.
    Text,
    /// A bool.
    Bool,
    /// A uint32.
    U32,
    /// An int32.
    I32,
    /// A double.
    F64,
    /// An enum: its names with their numbers, the one to write first.
    Enum(&'static [(&'static str, i32)]),
    /// A message: its fields by number.
    Nested(&'static [Field]),
    /// An object of strings.
    Map,
}

/// Writes the JSON form of a message. `None` if the message is to be read the
/// long way; then something may have been written.
pub(crate) fn transcode(fields: &[Field], wire: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut wire = Wire(wire);
    let mut fields = fields.iter().peekable();
    // A repeated field whose array is still open.
    let mut open: Option<u32> = None;
    let start = out.len();
    out.push(b'{');
    while !wire.0.is_empty() {
        let key = wire.varint()?;
        let number = u32::try_from(key >> 3).ok()?;
        if open != Some(number) {
            if open.take().is_some() {
                out.push(b']');
                fields.next();
            }
            while let Some(absent) = fields.next_if(|field| field.number < number) {
                absent.may_be_absent()?;
            }
        }
        let field = fields.peek().filter(|field| field.number == number && field.direct)?;
        let before = out.len();
        if open.is_some() {
            out.push(b',');
        } else {
            if before > start + 1 {
                out.push(b',');
            }
            out.extend_from_slice(field.key.as_bytes());
            if field.repeated {
                out.push(b'[');
                open = Some(number);
            }
        }
        let default = value(&field.shape, key & 7, &mut wire, out)?;
        if !field.repeated {
            if default && !field.presence {
                out.truncate(before);
            }
            fields.next();
        }
    }
    if open.is_some() {
        out.push(b']');
        fields.next();
    }
    fields.try_for_each(Field::may_be_absent)?;
    out.push(b'}');
    Some(())
}

const VARINT_WIRE_TYPE: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_WIRE_TYPE: u64 = 2;

/// Writes a value; returns whether it is what an absent one stands for.
fn value(shape: &Shape, wire_type: u64, wire: &mut Wire<'_>, out: &mut Vec<u8>) -> Option<bool> {
    match (shape, wire_type) {
        (Shape::Text, LENGTH_WIRE_TYPE) => {
            let text = std::str::from_utf8(wire.block()?).ok()?;
            write_text(text, out)?;
            Some(text.is_empty())
        }
        (Shape::Bool, VARINT_WIRE_TYPE) => {
            let on = match wire.varint()? {
                0 => false,
                1 => true,
                _ => return None,
            };
            out.extend_from_slice(if on { b"true" } else { b"false" });
            Some(!on)
        }
        (Shape::U32, VARINT_WIRE_TYPE) => {
            let number = u32::try_from(wire.varint()?).ok()?;
            serde_json::to_writer(out, &number).ok()?;
            Some(number == 0)
        }
        (Shape::I32, VARINT_WIRE_TYPE) => {
            let number = wire.int32()?;
            serde_json::to_writer(out, &number).ok()?;
            Some(number == 0)
        }
        (Shape::F64, FIXED_64) => {
            let number = f64::from_le_bytes(wire.take(8)?.try_into().ok()?);
            serde_json::to_writer(out, &Write::<F64>(&number)).ok()?;
            Some(F64::is_default(&number))
        }
        (Shape::Enum(names), VARINT_WIRE_TYPE) => {
            let number = wire.int32()?;
            match names.iter().find(|(_, known)| *known == number) {
                Some((name, _)) => write_text(name, out)?,
                None => serde_json::to_writer(out, &number).ok()?,
            }
            Some(number == 0)
        }
        (Shape::Nested(fields), LENGTH_WIRE_TYPE) => {
            transcode(fields, wire.block()?, out)?;
            Some(false)
        }
        _ => None,
    }
}

/// Most text needs no escapes, and that is found out in one go.
fn write_text(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let escaped = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    if text.bytes().fold(false, |any, byte| any | escaped(byte)) {
        return serde_json::to_writer(out, text).ok();
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Some(())
}

/// What is left of a message.
struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number as prost writes it: in as few bytes as it takes.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (at, &byte) in self.0.iter().enumerate().take(10) {
            let part = u64::from(byte & 0x7f);
            number |= part << (7 * at);
            if byte < 0x80 {
                let exact = (at == 0 || byte > 0) && (at < 9 || byte == 1);
                self.0 = self.0.get(at + 1..)?;
                return exact.then_some(number);
            }
        }
        None
    }

    #[expect(clippy::cast_possible_wrap, reason = "the sign is what the wrapping brings back")]
    fn int32(&mut self) -> Option<i32> {
        i32::try_from(self.varint()? as i64).ok()
    }

    fn block(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }
}

/// The value of a message's singular varint field of that number, the message
/// being as [`transcode`] takes it.
pub(crate) fn varint_field(wire: &[u8], number: u64) -> Option<u64> {
    let mut wire = Wire(wire);
    while !wire.0.is_empty() {
        let key = wire.varint()?;
        match (key >> 3, key & 7) {
            (of, VARINT_WIRE_TYPE) if of == number => return wire.varint(),
            (of, _) if of >= number => return None,
            (_, VARINT_WIRE_TYPE) => drop(wire.varint()?),
            (_, FIXED_64) => drop(wire.take(8)?),
            (_, LENGTH_WIRE_TYPE) => drop(wire.block()?),
            _ => return None,
        }
    }
    None
}
