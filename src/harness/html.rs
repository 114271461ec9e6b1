//! The frame of the reports in HTML: one self-contained page without scripts,
//! readable on a phone and on paper, in light and in dark.
//!
//! Everything that a server may have chosen goes through [`Escaped`]. Should
//! something slip through all the same, the page's policy keeps a browser from
//! running or loading anything.

use std::fmt::{self, Display, Write as _};

use crate::model::text::is_unsafe_to_show;

/// Text between tags or in a quoted attribute.
///
/// Markup becomes references, and what is unsafe to show becomes visible escapes.
/// Line feeds stay.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(EscapingWriter(f), "{}", self.0)
    }
}

struct EscapingWriter<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for EscapingWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.write_str("&amp;")?,
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '"' => self.0.write_str("&quot;")?,
                '\'' => self.0.write_str("&#39;")?,
                '\n' => self.0.write_char(c)?,
                c if is_unsafe_to_show(c) => write!(self.0, "{}", c.escape_default())?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A page; `Display` is the whole document.
#[derive(Clone, Debug, Default)]
pub struct HtmlPage {
    /// The title, as text.
    pub title: String,
    /// What stands below the title, as text: what was run, where, when.
    pub lead: String,
    /// Styles of this page alone, after [`STYLE`]. Not escaped.
    pub style: String,
    /// The content. Not escaped.
    pub body: String,
}

impl Display for HtmlPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, lead, style, body } = self;
        let (title, lead) = (Escaped(title), Escaped(lead));
        write!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n\
             <header>\n<h1>{title}</h1>\n<p class=\"lead\">{lead}</p>\n</header>\n\
             {body}\n</main>\n</body>\n</html>\n"
        )
    }
}

/// A table whose cells are text. Columns named in `numbers` are aligned as
/// numbers are.
#[derive(Clone, Debug, Default)]
pub struct HtmlTable {
    /// What the table shows.
    pub caption: String,
    /// The heads of the columns.
    pub columns: Vec<String>,
    /// The columns, from 0, that hold numbers.
    pub numbers: Vec<usize>,
    /// The rows. The first cell of each is its head.
    pub rows: Vec<Vec<String>>,
}

impl Display for HtmlTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = |column: usize| {
            if self.numbers.contains(&column) { " class=\"number\"" } else { "" }
        };
        write!(f, "<div class=\"scrolls\"><table><caption>{}</caption>", Escaped(&self.caption))?;
        f.write_str("<thead><tr>")?;
        for (column, head) in self.columns.iter().enumerate() {
            write!(f, "<th scope=\"col\"{}>{}</th>", class(column), Escaped(head))?;
        }
        f.write_str("</tr></thead><tbody>")?;
        for row in &self.rows {
            f.write_str("<tr>")?;
            for (column, cell) in row.iter().enumerate() {
                let (class, cell) = (class(column), Escaped(cell));
                if column == 0 {
                    write!(f, "<th scope=\"row\"{class}>{cell}</th>")?;
                } else {
                    write!(f, "<td{class}>{cell}</td>")?;
                }
            }
            f.write_str("</tr>\n")?;
        }
        f.write_str("</tbody></table></div>")
    }
}

/// The styles of every report. The classes `pass`, `fail`, `warn` and `info` colour
/// a verdict, which is always a word as well; `cards` lays out figures; `scrolls`
/// holds what may be wider than the screen.
pub const STYLE: &str = "
:root{color-scheme:light dark;--ground:#fff;--raised:#f4f5f7;--ink:#1b1f24;--faint:#59636e;
--line:#d5dae0;--pass:#1a7f37;--fail:#c21f30;--warn:#8f5a00;--info:#0b62c4;
--one:#2a66c8;--two:#b3540a;--three:#0b7a62;--four:#7c4bbd;--band:#c21f301a}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--raised:#1e2329;--ink:#e6e9ed;
--faint:#9aa5b1;--line:#39414b;--pass:#4cc26a;--fail:#ff7a85;--warn:#e3a63d;--info:#6cb0ff;
--one:#6ea3f7;--two:#f0944d;--three:#43c5a5;--four:#b593f0;--band:#ff7a8526}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.4rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p,li{max-width:48rem;overflow-wrap:anywhere}
.lead,.faint,caption,figcaption .unit{color:var(--faint)}
a{color:var(--info)}
code,pre{font:.875em/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--raised);padding:.7rem .9rem;border-radius:6px;overflow-x:auto}
code{overflow-wrap:anywhere}
.scrolls{overflow-x:auto}
table{border-collapse:collapse;font-size:.925rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.2rem 0 .4rem;font-size:.875rem;max-width:calc(100vw - 2rem)}
th,td{text-align:left;vertical-align:top;padding:.3rem .9rem .3rem 0;
border-bottom:1px solid var(--line)}
tbody th{font-weight:500}
.number{text-align:right;white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.7rem;
margin:1rem 0;padding:0;list-style:none}
.cards>*{background:var(--raised);border-radius:6px;padding:.7rem .9rem;margin:0}
.cards b{display:block;font-size:1.45rem;line-height:1.25;font-weight:600}
.cards span{color:var(--faint);font-size:.875rem}
.pass{color:var(--pass)}.fail{color:var(--fail)}.warn{color:var(--warn)}.info{color:var(--info)}
details{margin:.6rem 0}summary{cursor:pointer}
@media print{main{max-width:none;padding:0}.cards>*,pre{border:1px solid var(--line)}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_become_markup() {
        let text = "<b a=\"1\" c='2'>&\u{202e}\u{7}\n";
        assert_eq!(
            Escaped(text).to_string(),
            "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;\\u{202e}\\u{7}\n"
        );
        let table = HtmlTable {
            caption: "<c>".to_owned(),
            columns: vec!["<h>".to_owned(), "n".to_owned()],
            numbers: vec![1],
            rows: vec![vec!["<r>".to_owned(), "<1>".to_owned()]],
        };
        let page = HtmlPage {
            title: "<t>".to_owned(),
            lead: "<l>".to_owned(),
            style: String::new(),
            body: table.to_string(),
        };
        let page = page.to_string();
        for raw in ["<c>", "<h>", "<r>", "<1>", "<t>", "<l>"] {
            assert!(!page.contains(raw), "{raw} in {page}");
        }
        assert!(page.contains("<td class=\"number\">&lt;1&gt;</td>"), "{page}");
    }

    /// The report is one file: nothing in it is loaded from anywhere.
    #[test]
    fn a_page_loads_and_runs_nothing() {
        let page = HtmlPage { title: "t".to_owned(), ..HtmlPage::default() }.to_string();
        for word in ["<script", "<link", "src=", "url(", "@import", "http://", "https://"] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("default-src 'none'") && page.contains("prefers-color-scheme:dark"));
    }
}
