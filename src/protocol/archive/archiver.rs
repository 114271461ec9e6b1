//! A small archiver, so that tests can make the archives they need.

use std::collections::HashMap;
use std::io::Cursor;

use plist::{Dictionary, Uid, Value};

use super::{APPLE_EPOCH_SECS, NULL_OBJECT};

/// An archive being written. Methods that add an object return a reference.
pub(crate) struct Archiver {
    objects: Vec<Value>,
    classes: HashMap<String, Value>,
}

impl Archiver {
    pub(crate) fn new() -> Self {
        Self { objects: vec![Value::String(NULL_OBJECT.to_owned())], classes: HashMap::new() }
    }

    /// A reference to whatever object has or will have this number.
    pub(crate) fn number(number: u64) -> Value {
        Value::Uid(Uid::new(number))
    }

    /// The number that the next object gets.
    pub(crate) fn next(&self) -> u64 {
        self.objects.len() as u64
    }

    pub(crate) fn add(&mut self, object: impl Into<Value>) -> Value {
        self.objects.push(object.into());
        Self::number(self.next() - 1)
    }

    fn class(&mut self, name: &str) -> Value {
        if let Some(class) = self.classes.get(name) {
            return class.clone();
        }
        let mut class = Dictionary::new();
        class.insert("$classname".to_owned(), name.into());
        class.insert("$classes".to_owned(), Value::Array(vec![name.into(), "NSObject".into()]));
        let class = self.add(class);
        self.classes.insert(name.to_owned(), class.clone());
        class
    }

    pub(crate) fn instance<'k>(
        &mut self,
        class: &str,
        fields: impl IntoIterator<Item = (&'k str, Value)>,
    ) -> Value {
        let class = self.class(class);
        let mut object = Dictionary::new();
        for (key, value) in fields {
            object.insert(key.to_owned(), value);
        }
        object.insert("$class".to_owned(), class);
        self.add(object)
    }

    /// A date, given in seconds since 1970.
    pub(crate) fn date(&mut self, seconds: f64) -> Value {
        self.instance("NSDate", [("NS.time", Value::Real(seconds - APPLE_EPOCH_SECS))])
    }

    pub(crate) fn list(&mut self, elements: Vec<Value>) -> Value {
        self.instance("NSArray", [("NS.objects", Value::Array(elements))])
    }

    pub(crate) fn dictionary(&mut self, entries: Vec<(Value, Value)>) -> Value {
        let (keys, values) = entries.into_iter().unzip();
        self.instance(
            "NSDictionary",
            [("NS.keys", Value::Array(keys)), ("NS.objects", Value::Array(values))],
        )
    }

    fn archive(self, root: Value) -> Value {
        let mut top = Dictionary::new();
        top.insert("root".to_owned(), root);
        let mut archive = Dictionary::new();
        archive.insert("$version".to_owned(), Value::Integer(100_000.into()));
        archive.insert("$archiver".to_owned(), "NSKeyedArchiver".into());
        archive.insert("$top".to_owned(), Value::Dictionary(top));
        archive.insert("$objects".to_owned(), Value::Array(self.objects));
        Value::Dictionary(archive)
    }

    pub(crate) fn binary(self, root: Value) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        self.archive(root).to_writer_binary(&mut bytes).expect("a binary list");
        bytes.into_inner()
    }

    pub(crate) fn xml(self, root: Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        in_xml(self.archive(root)).to_writer_xml(&mut bytes).expect("an XML list");
        bytes
    }
}

/// XML lists have no references; archives write a dictionary for each.
fn in_xml(value: Value) -> Value {
    match value {
        Value::Uid(uid) => {
            let mut reference = Dictionary::new();
            reference.insert("CF$UID".to_owned(), Value::Integer(uid.get().into()));
            Value::Dictionary(reference)
        }
        Value::Array(elements) => Value::Array(elements.into_iter().map(in_xml).collect()),
        Value::Dictionary(entries) => {
            Value::Dictionary(entries.into_iter().map(|(k, v)| (k, in_xml(v))).collect())
        }
        plain => plain,
    }
}
