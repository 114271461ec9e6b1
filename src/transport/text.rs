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
        Some((words(text.get(start..end)?), words(&without_tags(text.get(end..)?))))
    });
    match title {
        Some((title, body)) if !title.is_empty() => {
            // Many pages repeat their title as a headline, and some titles are a name.
            let body = body.strip_prefix(&title).unwrap_or(&body).trim_start();
            let separator = if body.is_empty() { "" } else { ": " };
            on_one_line(&format!("{title}{separator}{body}"), MAX_CHARS)
        }
        _ => on_one_line(&without_tags(text), MAX_CHARS),
    }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a browser would show of a page.
fn without_tags(html: &str) -> String {
    let mut inside = false;
    let mut text = String::new();
    for character in without_scripts(html).chars() {
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

fn without_scripts(html: &str) -> String {
    let mut rest = html;
    let mut kept = String::new();
    let lower = html.to_ascii_lowercase();
    loop {
        let at = lower.len() - rest.len();
        let from = |name: &str| lower.get(at..)?.find(&format!("<{name}"));
        let Some((begin, name)) =
            ["script", "style"].into_iter().filter_map(|name| Some((from(name)?, name))).min()
        else {
            kept.push_str(rest);
            return kept;
        };
        kept.push_str(rest.get(..begin).unwrap_or_default());
        let close = format!("</{name}");
        let end = lower.get(at + begin..).and_then(|block| block.find(&close));
        let Some(end) = end else { return kept };
        rest = rest.get(begin + end..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_html_page_is_shown_by_its_title_and_what_it_says() {
        let page = "<!DOCTYPE html>\n<html><head><title>\n 404 Not\nFound</title></head></html>";
        assert_eq!(of_body(page), "404 Not Found");
        assert_eq!(of_body("<html><body><h1>No</h1>entry</body></html>"), "No entry");
        let titled = "<html><head><title>Sync</title><script>let x = '<p>';</script></head>\
                      <STYLE>p {}</STYLE><h1>Sync</h1><p>deflate is off</html>";
        assert_eq!(of_body(titled), "Sync: deflate is off");
        assert_eq!(of_body("{\"error\": \"no such machine\"}"), "{\"error\": \"no such machine\"}");
        assert_eq!(of_body(""), "");
    }
}
