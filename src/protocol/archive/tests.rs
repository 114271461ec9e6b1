use proptest::prelude::*;

use super::archiver::Archiver;
use super::*;

/// Both forms of an archive whose root `build` makes.
fn both(build: impl Fn(&mut Archiver) -> Value) -> [Vec<u8>; 2] {
    let mut binary = Archiver::new();
    let root = build(&mut binary);
    let mut xml = Archiver::new();
    let _ = build(&mut xml);
    [binary.binary(root.clone()), xml.xml(root)]
}

#[test]
fn every_kind_of_value_reads_the_same_from_binary_and_xml() {
    let archives = both(|a| {
        let text = a.add("text");
        let one = a.add(1);
        let (yes, real, bytes) = (a.add(true), a.add(1.5), a.add(Value::Data(vec![1, 2])));
        let date = a.date(1_751_111_111.0);
        let list = a.list(vec![text.clone(), Archiver::number(0), text.clone()]);
        let dictionary = a.dictionary(vec![(text.clone(), one.clone())]);
        let wrapped = a.instance("NSMutableData", [("NS.data", Value::Data(vec![3]))]);
        a.instance(
            "Thing",
            [
                ("text", text),
                ("one", one),
                ("yes", yes),
                ("real", real),
                ("data", bytes),
                ("inline", Value::Data(vec![9])),
                ("wrapped", wrapped),
                ("date", date),
                ("list", list),
                ("dictionary", dictionary),
                ("nothing", Archiver::number(0)),
            ],
        )
    });
    for bytes in archives {
        let archive = Archive::read(&bytes).expect("an archive");
        let Ok(ArchivedValue::Object(thing)) = archive.root() else { panic!("an object") };
        assert_eq!(thing.class(), "Thing");
        assert_eq!(thing.text("text").expect("text"), Some("text"));
        assert_eq!(thing.whole::<u64>("one").expect("whole"), Some(1));
        assert!(thing.flag("yes").expect("flag"));
        assert!(thing.flag("one").expect("1 is true"));
        assert!(matches!(thing.get("real"), Ok(Some(ArchivedValue::Real(1.5)))));
        assert_eq!(thing.bytes("data").expect("data"), Some(&[1, 2][..]));
        assert_eq!(thing.bytes("inline").expect("inline"), Some(&[9][..]));
        assert_eq!(thing.bytes("wrapped").expect("wrapped"), Some(&[3][..]));
        assert_eq!(thing.date("date").expect("date"), Some(1_751_111_111.0));
        assert_eq!(thing.texts("list").expect("texts"), ["text", "text"]);
        assert_eq!(
            thing.dictionary("dictionary").expect("pairs").map(|p| p.iter().count()),
            Some(1)
        );
        assert!(matches!(thing.text("nothing"), Ok(None)));
        assert!(matches!(thing.text("absent"), Ok(None)));
    }
}

#[test]
fn a_value_of_another_kind_is_an_error_that_names_class_and_key() {
    for bytes in both(|a| {
        let one = a.add(4_294_967_296_u64);
        let date = a.date(0.0);
        a.instance("Thing", [("text", one.clone()), ("small", one), ("flag", date)])
    }) {
        let archive = Archive::read(&bytes).expect("an archive");
        let Ok(ArchivedValue::Object(thing)) = archive.root() else { panic!("an object") };
        let message = |error: Option<ArchiveError>| error.expect("an error").to_string();
        assert_eq!(message(thing.text("text").err()), "Thing.text is a whole number, not text");
        assert_eq!(
            message(thing.whole::<u32>("small").err()),
            "Thing.small is 4294967296, not a number in range"
        );
        assert_eq!(message(thing.flag("flag").err()), "Thing.flag is a date, not a flag");
        assert_eq!(message(thing.required_text("gone").err()), "Thing.gone is missing");
    }
}

#[test]
fn what_is_no_archive_says_so() {
    for (bytes, words) in [
        (&b"bplist00"[..], "not a property list"),
        (b"<plist><array/></plist>", "no keyed archive"),
        (b"<plist><dict/></plist>", "$top.root"),
        (
            b"<plist><dict><key>$top</key><dict><key>root</key><integer>1</integer></dict></dict></plist>",
            "$objects",
        ),
    ] {
        let error = Archive::read(bytes).expect_err("no archive").to_string();
        assert!(error.contains(words), "{error}");
    }
    let error =
        Archive::read(&vec![b' '; MAX_ARCHIVE_BYTES + 1]).expect_err("too large").to_string();
    assert!(error.contains("1048577 bytes"), "{error}");
}

#[test]
fn a_reference_to_nowhere_and_an_object_without_class_are_errors() {
    let mut a = Archiver::new();
    let root = a.instance("Thing", [("x", Archiver::number(77))]);
    let archive = Archive::read(&a.binary(root)).map_err(|e| e.to_string()).expect("an archive");
    let Ok(ArchivedValue::Object(thing)) = archive.root() else { panic!("an object") };
    assert!(matches!(thing.get("x"), Err(ArchiveError::Dangling(77))));

    let mut a = Archiver::new();
    let root = a.add(Dictionary::new());
    let archive = Archive::read(&a.binary(root)).expect("an archive");
    assert!(matches!(archive.root(), Err(ArchiveError::Classless(1))));
}

/// Sixty bytes of references to one text of 64 KB would come to 4 GB.
#[test]
fn shared_objects_cannot_unfold_past_the_bound() {
    let mut a = Archiver::new();
    let text = a.add("x".repeat(65_536));
    let list = a.list(vec![text; 10_000]);
    let root = a.instance("Thing", [("list", list)]);
    let bytes = a.binary(root);
    let archive = Archive::read(&bytes).expect("an archive");
    let Ok(ArchivedValue::Object(thing)) = archive.root() else { panic!("an object") };
    assert!(matches!(thing.texts("list"), Err(ArchiveError::Unfolds)));
}

#[test]
fn a_name_is_shown_short_and_without_control_characters() {
    assert_eq!(Name::new("a\n\u{1b}[2J").to_string(), "a\\n\\u{1b}[2J");
    assert_eq!(Name::new(&"x".repeat(1000)).to_string(), format!("{}…", "x".repeat(64)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut list = b"bplist00".to_vec();
        list.extend(&bytes);
        for input in [&bytes, &list] {
            if let Ok(archive) = Archive::read(input) {
                let _ = archive.root();
            }
        }
    }
}
