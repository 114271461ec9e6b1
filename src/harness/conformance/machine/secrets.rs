//! What a preflight response has that nobody else should read.

use serde_json::Value;

/// The texts of a response that are secrets.
pub(super) fn secrets_of(message: &Value) -> Vec<&str> {
    const SECRET_MEMBERS: [&str; 6] = [
        "push_token",
        "pushToken",
        "push_issuer_token",
        "pushIssuerToken",
        "export_configuration",
        "exportConfiguration",
    ];
    fn texts<'v>(value: &'v Value, into: &mut Vec<&'v str>) {
        match value {
            Value::String(text) => into.push(text),
            Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
            Value::Object(members) => members.values().for_each(|value| texts(value, into)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut secrets = Vec::new();
    for value in SECRET_MEMBERS.iter().filter_map(|name| message.get(*name)) {
        texts(value, &mut secrets);
    }
    secrets
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_for_push_and_export_are_secrets() {
        let message = json!({
            "clientMode": "MONITOR", "pushToken": "t",
            "exportConfiguration": {"signedPost": {"url": "u", "formValues": {"k": "v"}}}
        });
        let mut secrets = secrets_of(&message);
        secrets.sort_unstable();
        assert_eq!(secrets, ["t", "u", "v"]);
    }
}
