//! Compiles `proto/` with protox (nobody needs `protoc`), has prost write the
//! wire types, and writes beside them what the JSON form of each message and
//! enum is. Everything about JSON comes from the descriptors: the names, the
//! aliases, the kind of each field, and which fields are always written. There
//! is no second list of fields to keep in step.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
};

const SCHEMA: &str = "santa/sync/v1/sync.proto";
const PACKAGE: &str = "santa.sync.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_file(SCHEMA)?;
    let pool = compiler.descriptor_pool();
    let out = env::var("OUT_DIR")?;

    prost_build::Config::new()
        .out_dir(&out)
        .btree_map(["."])
        .compile_fds(compiler.file_descriptor_set())?;
    fs::write(Path::new(&out).join("json.rs"), json(&pool)?)?;
    fs::write(Path::new(&out).join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}

fn json(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    for message in pool.all_messages().filter(|m| m.package_name() == PACKAGE) {
        if !message.is_map_entry() {
            message_json(&mut code, &message, pool)?;
        }
    }
    for e in pool.all_enums().filter(|e| e.package_name() == PACKAGE) {
        enum_json(&mut code, &e)?;
    }
    Ok(code)
}

/// The spellings of an enum: one number may have several names, the first of
/// which is the one to write.
fn enum_json(code: &mut String, e: &EnumDescriptor) -> Result<(), Box<dyn Error>> {
    writeln!(code, "impl json::Enumeration for {} {{", e.name())?;
    writeln!(code, "    const NAMES: &'static [(&'static str, i32)] = &[")?;
    // In the order of the file: `values()` sorts.
    for value in &e.enum_descriptor_proto().value {
        writeln!(code, "        ({:?}, {}),", value.name(), value.number())?;
    }
    writeln!(code, "    ];\n}}")?;
    Ok(())
}

fn message_json(
    code: &mut String,
    message: &MessageDescriptor,
    pool: &DescriptorPool,
) -> Result<(), Box<dyn Error>> {
    let name = message.name();
    writeln!(code, "impl json::Message for {name} {{")?;
    writeln!(code, "    const NAME: &'static str = {name:?};")?;
    writeln!(
        code,
        "    fn read_field<'de, A: serde::de::MapAccess<'de>>(&mut self, name: &str, map: &mut A, notes: &mut json::Notes) -> Result<bool, A::Error> {{"
    )?;
    writeln!(code, "        match name {{")?;
    for field in message.fields() {
        let mut spellings = vec![format!("{:?}", field.json_name())];
        // Some servers write every field in camel case, whatever its JSON name.
        for spelling in [field.name().to_owned(), lower_camel(field.name())] {
            let spelling = format!("{spelling:?}");
            if !spellings.contains(&spelling) {
                spellings.push(spelling);
            }
        }
        writeln!(code, "            {} => {}", spellings.join(" | "), read(&field)?)?;
    }
    writeln!(code, "            _ => return Ok(false),\n        }}\n        Ok(true)\n    }}")?;

    writeln!(
        code,
        "    fn write_fields<M: serde::ser::SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {{"
    )?;
    let mut fields: Vec<_> = message.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    for field in &fields {
        writeln!(code, "        {}", write(field, pool)?)?;
    }
    writeln!(code, "        Ok(())\n    }}")?;
    writeln!(code, "    const FIELDS: &'static [json::Field] = &[")?;
    for field in &fields {
        let key = format!("{:?}:", field.json_name());
        writeln!(
            code,
            "        json::Field {{ number: {}, name: {:?}, key: {key:?}, shape: json::Shape::{}, direct: {}, repeated: {}, presence: {} }},",
            field.number(),
            setting_name(field),
            shape(field)?,
            is_direct(field, pool)?,
            field.cardinality() == Cardinality::Repeated,
            is_option(field)
        )?;
    }
    writeln!(code, "    ];\n}}")?;
    writeln!(
        code,
        "impl serde::Serialize for {name} {{ fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {{ json::write_message(self, s) }} }}"
    )?;
    writeln!(
        code,
        "impl<'de> serde::Deserialize<'de> for {name} {{ fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {{ json::read_message(d) }} }}"
    )?;
    Ok(())
}

/// The statement that reads a field's value from the map.
fn read(field: &FieldDescriptor) -> Result<String, Box<dyn Error>> {
    let place = field.name();
    let name = setting_name(field);
    if field.is_map() {
        return Ok(format!("json::read_map({name:?}, &mut self.{place}, map, notes)?,"));
    }
    let kind = seed(field)?;
    if field.cardinality() == Cardinality::Repeated {
        return Ok(format!(
            "json::read_repeated::<{kind}, A>({name:?}, &mut self.{place}, map, notes)?,"
        ));
    }
    let value = format!("json::read_value::<{kind}, A>({name:?}, map, notes)?");
    if let Some((oneof, variant)) = oneof_variant(field) {
        return Ok(format!(
            "if let Some(value) = {value} {{ self.{oneof} = Some({variant}(value)); }},"
        ));
    }
    if is_option(field) {
        Ok(format!("if let Some(value) = {value} {{ self.{place} = Some(value); }},"))
    } else {
        Ok(format!("if let Some(value) = {value} {{ self.{place} = value; }},"))
    }
}

/// The statement that writes a field's entry, if it is to be written.
fn write(field: &FieldDescriptor, pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let place = field.name();
    let key = field.json_name();
    if field.is_map() {
        return Ok(format!(
            "if !self.{place}.is_empty() {{ map.serialize_entry({key:?}, &self.{place})?; }}"
        ));
    }
    let kind = seed(field)?;
    if field.cardinality() == Cardinality::Repeated {
        return Ok(format!(
            "if !self.{place}.is_empty() {{ map.serialize_entry({key:?}, &json::WriteAll::<{kind}>(&self.{place}))?; }}"
        ));
    }
    let entry =
        |value: &str| format!("map.serialize_entry({key:?}, &json::Write::<{kind}>({value}))?;");
    if let Some((oneof, variant)) = oneof_variant(field) {
        return Ok(format!(
            "if let Some({variant}(value)) = &self.{oneof} {{ {} }}",
            entry("value")
        ));
    }
    if is_option(field) {
        return Ok(format!("if let Some(value) = &self.{place} {{ {} }}", entry("value")));
    }
    let statement = entry(&format!("&self.{place}"));
    if marked(field, pool, "always_written")? {
        return Ok(statement);
    }
    Ok(format!("if !json::is_default::<{kind}>(&self.{place}) {{ {statement} }}"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a kind without a JSON form fails the build")]
/// The type in `protocol/json.rs` that reads and writes values of this kind.
fn seed(field: &FieldDescriptor) -> Result<String, Box<dyn Error>> {
    Ok(match field.kind() {
        Kind::String => "json::Text".into(),
        Kind::Bool => "json::Bool".into(),
        Kind::Uint32 => "json::U32".into(),
        Kind::Int32 => "json::I32".into(),
        Kind::Double => "json::F64".into(),
        Kind::Enum(e) => format!("json::Enum<{}>", e.name()),
        Kind::Message(m) => format!("json::Nested<{}>", m.name()),
        other => return Err(format!("{}: no JSON form for {other:?}", field.full_name()).into()),
    })
}

/// What a field's values are.
#[expect(clippy::wildcard_enum_match_arm, reason = "a kind without a JSON form fails the build")]
fn shape(field: &FieldDescriptor) -> Result<String, Box<dyn Error>> {
    Ok(match field.kind() {
        Kind::Message(_) if field.is_map() => "Map".into(),
        Kind::String => "Text".into(),
        Kind::Message(m) => format!("Nested(<{} as json::Message>::FIELDS)", m.name()),
        Kind::Bool => "Bool".into(),
        Kind::Uint32 => "U32".into(),
        Kind::Int32 => "I32".into(),
        Kind::Double => "F64".into(),
        Kind::Enum(e) => format!("Enum(<{} as json::Enumeration>::NAMES)", e.name()),
        other => return Err(format!("{}: no JSON form for {other:?}", field.full_name()).into()),
    })
}

/// Whether a field's values can be written without the message in between.
fn is_direct(field: &FieldDescriptor, pool: &DescriptorPool) -> Result<bool, Box<dyn Error>> {
    let one_of_several = field.containing_oneof().is_some_and(|oneof| oneof.fields().len() > 1);
    // Numbers may be packed.
    let packed = field.cardinality() == Cardinality::Repeated
        && !matches!(field.kind(), Kind::String | Kind::Message(_));
    Ok(!field.is_map() && !one_of_several && !packed && !marked(field, pool, "always_written")?)
}

/// The name of a field in settings, warnings and documentation: the JSON name
/// where that is one of its own, else the field's.
fn setting_name(field: &FieldDescriptor) -> String {
    if field.json_name() == lower_camel(field.name()) {
        field.name().to_owned()
    } else {
        field.json_name().to_owned()
    }
}

fn is_option(field: &FieldDescriptor) -> bool {
    field.supports_presence()
}

/// Where a member of a real oneof lies: the field prost makes of the oneof, and
/// the variant. `None` for the oneofs that `optional` makes.
fn oneof_variant(field: &FieldDescriptor) -> Option<(String, String)> {
    let oneof = field.containing_oneof().filter(|o| !o.is_synthetic())?;
    let module = snake(field.parent_message().name());
    let variant = format!("{module}::{}::{}", upper_camel(oneof.name()), upper_camel(field.name()));
    Some((oneof.name().to_owned(), variant))
}

/// Whether a field bears a mark of `proto/santa_sync/v1/options.proto`.
fn marked(
    field: &FieldDescriptor,
    pool: &DescriptorPool,
    mark: &str,
) -> Result<bool, Box<dyn Error>> {
    let full = format!("santa_sync.v1.{mark}");
    let extension = pool
        .all_extensions()
        .find(|e| e.full_name() == full)
        .ok_or_else(|| format!("options.proto lacks {full}"))?;
    Ok(field.options().get_extension(&extension).as_bool() == Some(true))
}

fn upper_camel(name: &str) -> String {
    name.split('_')
        .map(|part| {
            let mut letters = part.chars();
            letters
                .next()
                .map_or(String::new(), |c| c.to_uppercase().collect::<String>() + letters.as_str())
        })
        .collect()
}

fn lower_camel(name: &str) -> String {
    let camel = upper_camel(name);
    let mut letters = camel.chars();
    letters
        .next()
        .map_or(String::new(), |c| c.to_lowercase().collect::<String>() + letters.as_str())
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
