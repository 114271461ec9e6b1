//! A server's own words, made fit to show.

use crate::model::text::on_one_line;

/// The most characters of them that are shown.
pub(super) const MAX_CHARS: usize = 200;

/// What the body of an error says: the title of an HTML page, or the text.
pub(super) fn of_body(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let html = lower.trim_start().starts_with('<') && lower.contains("<html")
        || lower.trim_start().starts_with("<!doctype");
    if !html {
        return on_one_line(text, MAX_CHARS);
    }
    let title = lower.find("<title").and_then(|at| {
        let start = at + lower.get(at..)?.find('>')? + 1;
        let end = start + lower.get(start..)?.find("</title")?;
        text.get(start..end)
    });
    match title.map(|title| on_one_line(title, MAX_CHARS)) {
        Some(title) if !title.is_empty() => title,
        _ => on_one_line(&without_tags(text), MAX_CHARS),
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
    fn an_html_page_is_shown_by_its_title() {
        let page = "<!DOCTYPE html>\n<html><head><title>\n 404 Not\nFound</title></head></html>";
        assert_eq!(of_body(page), "404 Not Found");
        assert_eq!(of_body("<html><body><h1>No</h1>entry</body></html>"), "No entry");
        assert_eq!(of_body("{\"error\": \"no such machine\"}"), "{\"error\": \"no such machine\"}");
        assert_eq!(of_body(""), "");
    }
}
