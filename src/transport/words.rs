//! A server's own words, made fit to be shown.

/// The most characters of them that are shown.
pub(super) const MAX_WORDS: usize = 200;

/// The text on one line, with control and direction characters escaped, cut to
/// `max` characters.
pub(super) fn clean(text: &str, max: usize) -> String {
    let mut cleaned = String::new();
    for (place, word) in text.split_whitespace().enumerate() {
        if place > 0 {
            cleaned.push(' ');
        }
        for character in word.chars() {
            // Direction marks could make a message read as another one.
            let unseen = matches!(character,
                '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
                | '\u{feff}');
            if character.is_control() || unseen {
                cleaned.extend(character.escape_default());
            } else {
                cleaned.push(character);
            }
        }
        if cleaned.chars().count() > max {
            cleaned = cleaned.chars().take(max).collect();
            cleaned.push('…');
            break;
        }
    }
    cleaned
}

/// What the body of an error says: the title of an HTML page, or the text.
pub(super) fn of_body(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let lower = text.to_ascii_lowercase();
    let html = lower.trim_start().starts_with('<') && lower.contains("<html")
        || lower.trim_start().starts_with("<!doctype");
    if !html {
        return clean(&text, MAX_WORDS);
    }
    let title = lower.find("<title").and_then(|at| {
        let start = at + lower.get(at..)?.find('>')? + 1;
        let end = start + lower.get(start..)?.find("</title")?;
        text.get(start..end)
    });
    match title.map(|title| clean(title, MAX_WORDS)) {
        Some(title) if !title.is_empty() => title,
        _ => clean(&without_tags(&text), MAX_WORDS),
    }
}

fn without_tags(html: &str) -> String {
    let mut inside = false;
    let mut text = String::new();
    for character in html.chars() {
        match character {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            other if !inside => text.push(other),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_long_texts_cut() {
        assert_eq!(clean("a\u{1b}[31mred\r\n  b\t\u{202e}c", 200), "a\\u{1b}[31mred b \\u{202e}c");
        assert_eq!(clean(&"x".repeat(300), 200).chars().count(), 201);
        assert_eq!(clean(&"y ".repeat(300), 10), "y y y y y …");
    }

    #[test]
    fn an_html_page_is_shown_by_its_title() {
        let page = b"<!DOCTYPE html>\n<html><head><title>\n 404 Not\nFound</title></head></html>";
        assert_eq!(of_body(page), "404 Not Found");
        assert_eq!(of_body(b"<html><body><h1>No</h1>entry</body></html>"), "No entry");
        assert_eq!(
            of_body(b"{\"error\": \"no such machine\"}"),
            "{\"error\": \"no such machine\"}"
        );
        assert_eq!(of_body(b""), "");
    }
}
