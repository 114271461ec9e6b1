//! Tests of plots over time.

use super::*;

#[test]
fn an_axis_ends_in_round_numbers_above_the_highest_value() {
    for highest in [0.0, 0.003, 0.7, 1.0, 3.0, 9.9, 10.0, 11.0, 166.7, 1e6, 123_456_789.0] {
        let (top, step) = scale(highest);
        let count = ticks(top, step).count();
        assert!(top >= highest && top <= highest.max(1.0) * 1.6, "{highest}: {top}");
        assert!((2..=7).contains(&count), "{highest}: {count} ticks of {step}");
    }
}

#[test]
fn times_get_a_few_labels() {
    for secs in [1, 12, 59, 720, 3600, 86_400, 604_800] {
        let labels = as_float(secs) / time_step(Duration::from_secs(secs)).as_secs_f64();
        assert!((1.0..=8.0).contains(&labels), "{secs}: {labels}");
    }
    assert_eq!(clock_time(Duration::from_secs(754)), "12:34");
    assert_eq!(clock_time(Duration::from_secs(3_754)), "1:02:34");
}

#[test]
fn a_line_breaks_where_nothing_was_measured() {
    let plot = Plot {
        title: "t",
        unit: "ms",
        span: Duration::from_secs(4),
        lines: vec![PlotLine { name: "l", values: vec![Some(1.0), Some(2.0), None, Some(4.0)] }],
        bands: vec![(Duration::from_secs(2), Duration::from_secs(3), "<out>".to_owned())],
        marks: vec![(Duration::from_secs(1), "storm".to_owned())],
        shown: |value| format!("{value:.0}"),
    };
    let text = plot.to_string();
    assert!(text.contains("d=\"M125.0 225.0L375.0 150.0M875.0 0.0\""), "{text}");
    assert!(text.contains("x=\"500.0\" y=\"0\" width=\"250.0\""), "{text}");
    assert!(text.contains("&lt;out&gt;") && !text.contains("<out>"), "{text}");
    assert!(text.contains("<desc>l: at most 4 ms</desc>"), "{text}");
}

/// On a phone, names in one row would overlap and be unreadable.
#[test]
fn the_names_of_storms_and_outages_have_rows_of_their_own() {
    let at = |secs: u64, name: &str| (Duration::from_secs(secs), name.to_owned());
    let plot = Plot {
        title: "t",
        unit: "",
        span: Duration::from_secs(100),
        lines: Vec::new(),
        bands: vec![(Duration::from_secs(30), Duration::from_secs(40), "outage".to_owned())],
        marks: vec![at(75, "reboot"), at(60, "clean"), at(76, "sync"), at(80, "last")],
        shown: |value| format!("{value:.0}"),
    };
    let text = plot.to_string();
    for (name, top) in [("outage", 0.0), ("clean", 1.15), ("reboot", 2.3), ("sync", 3.45)] {
        assert!(text.contains(&format!("top:{top:.2}rem\">{name}</span>")), "{name}: {text}");
    }
    assert!(text.contains("top:0.00rem\">last") && text.contains("height:4.60rem"), "{text}");
}
