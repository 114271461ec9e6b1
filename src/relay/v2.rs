//! Detects that the authorizer still has state of version 2 of the protocol,
//! in which a server gave it a chain of tokens: it then reports hashes that
//! version 1 does not have (RELAY-6).

use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use serde::Deserialize;

use crate::model::Transfer;

/// The fields of a preflight request that only version 2 has.
const V2_FIELDS: std::ops::RangeInclusive<u32> = 23..=27;

/// What version 2 adds to a preflight request.
#[derive(Deserialize)]
struct V2Hashes {
    #[serde(default, alias = "fileAccessRulesHash")]
    file_access_rules_hash: Option<String>,
    #[serde(default, alias = "networkFlowRulesHash")]
    network_flow_rules_hash: Option<String>,
}

/// Whether a preflight request shows state of version 2.
#[must_use]
pub fn has_left_state(transfer: Transfer, body: &[u8]) -> bool {
    match transfer {
        Transfer::Json => serde_json::from_slice::<V2Hashes>(body).is_ok_and(|hashes| {
            [hashes.file_access_rules_hash, hashes.network_flow_rules_hash]
                .iter()
                .flatten()
                .any(|hash| !hash.is_empty())
        }),
        Transfer::Protobuf => has_v2_field(body),
    }
}

fn has_v2_field(mut body: &[u8]) -> bool {
    while !body.is_empty() {
        let Ok((number, wire_type)) = decode_key(&mut body) else { return false };
        if V2_FIELDS.contains(&number) && wire_type == WireType::LengthDelimited {
            return true;
        }
        if skip_field(wire_type, number, &mut body, DecodeContext::default()).is_err() {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost::encoding::string;

    use super::*;
    use crate::protocol::wire::PreflightRequest;

    /// RELAY-6: hashes of version 2 show, in either form; nothing else does.
    #[test]
    fn relay_6_state_left_of_version_2_shows() {
        for (body, expected) in [
            (r#"{"machine_id":"x","file_access_rules_hash":"ab"}"#, true),
            (r#"{"networkFlowRulesHash":"ab"}"#, true),
            (r#"{"file_access_rules_hash":"","serial_num":"x"}"#, false),
            (r#"{"file_access_rules_hash":null}"#, false),
            ("{}", false),
            ("", false),
            ("[", false),
        ] {
            assert_eq!(has_left_state(Transfer::Json, body.as_bytes()), expected, "{body}");
        }
        let request = PreflightRequest {
            serial_number: "x".to_owned(),
            rules_hash: "y".to_owned(),
            sip_status: 7,
            ..PreflightRequest::default()
        };
        let mut body = request.encode_to_vec();
        assert!(!has_left_state(Transfer::Protobuf, &body));
        assert!(!has_left_state(Transfer::Protobuf, &body[..3]), "cut off");
        string::encode(24, &"hash".to_owned(), &mut body);
        assert!(has_left_state(Transfer::Protobuf, &body));
    }
}
