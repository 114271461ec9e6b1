//! Messages as Santa's client reads and writes them, by a library that shares
//! nothing with the agent but the schema.

use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use santa_sync::model::Transfer;
use santa_sync::protocol::wire;
use serde_json::Value;

fn empty(name: &str) -> DynamicMessage {
    static POOL: std::sync::OnceLock<DescriptorPool> = std::sync::OnceLock::new();
    let pool = POOL.get_or_init(|| {
        DescriptorPool::decode(wire::DESCRIPTORS).expect("the schema's descriptors")
    });
    let full = format!("santa.sync.v1.{name}");
    DynamicMessage::new(pool.get_message_by_name(&full).expect("a message of the schema"))
}

/// The body of a request. JSON has the fields that are set, in the order of their
/// numbers, and then `more`.
pub(crate) fn write<M: prost::Message>(
    transfer: Transfer,
    name: &str,
    message: &M,
    more: &[(&str, &str)],
) -> Vec<u8> {
    if transfer == Transfer::Protobuf {
        return message.encode_to_vec();
    }
    let mut dynamic = empty(name);
    dynamic.transcode_from(message).expect("the same schema");
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut text);
    dynamic
        .serialize_with_options(&mut serializer, &SerializeOptions::new())
        .expect("every message has a JSON form");
    if more.is_empty() {
        return text;
    }
    text.pop();
    for (name, value) in more {
        let comma = if text.len() > 1 { "," } else { "" };
        text.extend_from_slice(format!("{comma}{name:?}:{}", Value::from(*value)).as_bytes());
    }
    text.push(b'}');
    text
}

/// Reads a response; `None` if it is not one. Unknown fields and names of enums are
/// passed over.
pub(crate) fn read<M: prost::Message + Default>(
    transfer: Transfer,
    name: &str,
    body: &[u8],
) -> Option<M> {
    if transfer == Transfer::Protobuf {
        return M::decode(body).ok();
    }
    let body = body.strip_prefix(b")]}'\n").or_else(|| body.strip_prefix(b"])}")).unwrap_or(body);
    if body.is_empty() {
        return Some(M::default());
    }
    let descriptor = prost_reflect::ReflectMessage::descriptor(&empty(name));
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let message =
        DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options).ok()?;
    deserializer.end().ok()?;
    message.transcode_to().ok()
}
