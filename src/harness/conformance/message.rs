//! Request messages in the form that Santa's own client writes: members in the order of
//! their numbers, and without those that are zero, false or empty.
//!
//! The messages come from the protocol's writers; what is done here is leaving members out,
//! and changing single ones for the checks that ask what a server makes of them.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::model::Transfer;
use crate::protocol::body;

/// A field number that the schema does not have.
const UNKNOWN_FIELD: u32 = 4000;
/// The name of the unknown member, which the schema does not have.
pub(super) const UNKNOWN_MEMBER: &str = "probe_unknown_field";

/// JSON whose members keep their order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Object(Vec<(String, Node)>),
    Array(Vec<Node>),
    Scalar(Value),
}

impl Node {
    /// Whether the client leaves out a member of this value.
    fn is_left_out(&self) -> bool {
        match self {
            Self::Array(items) => items.is_empty(),
            Self::Scalar(Value::Number(number)) => number.as_f64() == Some(0.0),
            Self::Scalar(value) => {
                matches!(value, Value::Null | Value::Bool(false)) || value.as_str() == Some("")
            }
            Self::Object(_) => false,
        }
    }

    fn prune(&mut self) {
        match self {
            Self::Object(members) => {
                members.retain(|(_, value)| !value.is_left_out());
                for (_, value) in members {
                    value.prune();
                }
            }
            Self::Array(items) => items.iter_mut().for_each(Self::prune),
            Self::Scalar(_) => {}
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        match value {
            Value::Object(map) => {
                Self::Object(map.into_iter().map(|(name, value)| (name, value.into())).collect())
            }
            Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
                Self::Scalar(scalar)
            }
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Object(members) => {
                serializer.collect_map(members.iter().map(|(name, value)| (name, value)))
            }
            Self::Array(items) => serializer.collect_seq(items),
            Self::Scalar(value) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Node::Object(members))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::Array(items))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }
        }
        deserializer.deserialize_any(Ordered)
    }
}

/// A request message before it is compressed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    /// In JSON: its members.
    Json(Vec<(String, Node)>),
    /// In protobuf.
    Protobuf(Vec<u8>),
}

impl Message {
    /// The message in client form.
    pub(super) fn of<M: prost::Message + Serialize>(transfer: Transfer, message: &M) -> Self {
        let mut message = Self::written_out(transfer, message);
        if let Self::Json(members) = &mut message {
            let mut node = Node::Object(std::mem::take(members));
            node.prune();
            if let Node::Object(pruned) = node {
                *members = pruned;
            }
        }
        message
    }

    /// The message as the agent of this program writes it: what a server may ask for is there,
    /// be it zero, false or empty. Protobuf has no such freedom.
    pub(super) fn written_out<M: prost::Message + Serialize>(
        transfer: Transfer,
        message: &M,
    ) -> Self {
        match transfer {
            Transfer::Protobuf => Self::Protobuf(message.encode_to_vec()),
            Transfer::Json => {
                // Messages of the schema always have a JSON form, and it is an object.
                let text = body::encode(transfer, message).unwrap_or_default();
                match serde_json::from_slice(&text) {
                    Ok(Node::Object(members)) => Self::Json(members),
                    Ok(Node::Array(_) | Node::Scalar(_)) | Err(_) => Self::Json(Vec::new()),
                }
            }
        }
    }

    /// Adds a member that the schema does not have.
    pub(super) fn with_unknown_member(mut self) -> Self {
        match &mut self {
            Self::Json(members) => {
                let value = serde_json::json!({"a": [1, "x"]});
                members.push((UNKNOWN_MEMBER.to_owned(), value.into()));
            }
            Self::Protobuf(bytes) => {
                prost::encoding::string::encode(UNKNOWN_FIELD, &"x".to_owned(), bytes);
            }
        }
        self
    }

    /// Replaces a member of a JSON message, or adds it. Protobuf has no such freedom and
    /// stays as it is.
    pub(super) fn set(mut self, name: &str, value: Value) -> Self {
        if let Self::Json(members) = &mut self {
            match members.iter_mut().find(|(known, _)| known == name) {
                Some((_, old)) => *old = value.into(),
                None => members.push((name.to_owned(), value.into())),
            }
        }
        self
    }

    /// The bytes before compression.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Json(members) => {
                serde_json::to_vec(&Node::Object(members.clone())).unwrap_or_default()
            }
            Self::Protobuf(bytes) => bytes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::wire;

    fn json_of(message: &Message) -> String {
        String::from_utf8(message.bytes()).unwrap()
    }

    #[test]
    fn the_client_form_leaves_out_what_is_zero_and_keeps_the_order_of_numbers() {
        let request = wire::PostflightRequest {
            machine_id: "M".to_owned(),
            sync_type: wire::SyncType::Clean.into(),
            ..wire::PostflightRequest::default()
        };
        let message = Message::of(Transfer::Json, &request);
        assert_eq!(json_of(&message), r#"{"machine_id":"M","syncType":"CLEAN"}"#);

        let event = wire::Event {
            file_sha256: "ab".to_owned(),
            execution_time: 1_735_689_600.25,
            decision: wire::Decision::AllowUnknown.into(),
            ..wire::Event::default()
        };
        assert_eq!(
            json_of(&Message::of(Transfer::Json, &event)),
            r#"{"file_sha256":"ab","execution_time":1735689600.25,"decision":"ALLOW_UNKNOWN"}"#
        );
    }

    #[test]
    fn a_message_that_is_written_out_has_empty_members() {
        let request = wire::PreflightRequest::default();
        let written = json_of(&Message::written_out(Transfer::Json, &request));
        let pruned = json_of(&Message::of(Transfer::Json, &request));
        for member in ["\"primary_user\":\"\"", "\"request_clean_sync\":false", "_count\":0"] {
            assert!(written.contains(member), "{written}");
            assert!(!pruned.contains(member), "{pruned}");
        }
    }

    #[test]
    fn members_are_replaced_in_place_and_unknown_ones_come_last() {
        let request = wire::RuleDownloadRequest { cursor: "c".into(), machine_id: "M".into() };
        let message =
            Message::of(Transfer::Json, &request).set("cursor", json!(null)).with_unknown_member();
        assert_eq!(
            json_of(&message),
            r#"{"cursor":null,"machine_id":"M","probe_unknown_field":{"a":[1,"x"]}}"#
        );
    }

    #[test]
    fn an_unknown_field_of_protobuf_is_skipped_by_whoever_reads_it() {
        use prost::Message as _;
        let request = wire::RuleDownloadRequest { cursor: "c".into(), machine_id: "M".into() };
        let bytes = Message::of(Transfer::Protobuf, &request).with_unknown_member().bytes();
        assert!(bytes.len() > request.encode_to_vec().len());
        assert_eq!(wire::RuleDownloadRequest::decode(&*bytes), Ok(request));
    }
}
