use bytes::Bytes;

/// A request's body as it goes over the wire. A copy shares its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Packed {
    /// The bytes.
    pub bytes: Bytes,
    /// The value of `Content-Encoding`, if they are encoded.
    pub encoding: Option<&'static str>,
}

impl Packed {
    /// A body as it is.
    #[must_use]
    pub fn plain(body: Vec<u8>) -> Self {
        Self { bytes: body.into(), encoding: None }
    }
}
