//! A report as one HTML page: it is complete in itself and loads nothing.

mod axis;
pub(crate) mod chart;

use std::fmt::Write;

pub(crate) use self::axis::{Quantity, time};

const STYLE: &str = include_str!("page/style.css");

/// A page that is being written, from top to bottom.
#[derive(Debug)]
pub(crate) struct Page(String);

/// A figure to be read at a glance.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) figure: String,
    pub(crate) label: String,
    pub(crate) is_bad: bool,
}

impl Card {
    pub(crate) fn new(figure: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            figure: figure.into(),
            label: label.into(),
            is_bad: false,
        }
    }
}

impl Page {
    pub(crate) fn new(title: &str) -> Self {
        let title = escape(title);
        Self(format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        ))
    }

    pub(crate) fn cards(&mut self, cards: &[Card]) {
        self.0 += "<ul class=\"cards\">\n";
        for card in cards {
            let class = if card.is_bad { " class=\"bad\"" } else { "" };
            let (figure, label) = (escape(&card.figure), escape(&card.label));
            // Writing to a string cannot fail.
            let _ = writeln!(
                self.0,
                "<li{class}><b>{figure}</b><span>{label}</span></li>"
            );
        }
        self.0 += "</ul>\n";
    }

    pub(crate) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "<h2>{}</h2>", escape(text));
    }

    pub(crate) fn note(&mut self, text: &str) {
        if !text.is_empty() {
            let _ = writeln!(self.0, "<p class=\"note\">{}</p>", escape(text));
        }
    }

    /// Adds a chart: the result of a function of [`chart`].
    pub(crate) fn chart(&mut self, svg: &str) {
        self.0 += svg;
    }

    pub(crate) fn list(&mut self, items: impl IntoIterator<Item = String>) {
        let items = items.into_iter();
        let items: String = items
            .map(|item| format!("<li>{}</li>\n", escape(&item)))
            .collect();
        let _ = write!(self.0, "<ul>\n{items}</ul>\n");
    }

    pub(crate) fn text(&mut self, text: &str) {
        let _ = writeln!(self.0, "<pre>{}</pre>", escape(text));
    }

    pub(crate) fn table(&mut self, heads: &[String], rows: &[Vec<String>]) {
        let row = |cells: &[String], tag: &str| {
            let cells = cells.iter();
            let cells: String = cells
                .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
                .collect();
            format!("<tr>{cells}</tr>\n")
        };
        let body: String = rows.iter().map(|cells| row(cells, "td")).collect();
        let head = row(heads, "th");
        let _ = write!(
            self.0,
            "<div class=\"scroll\"><table>\n{head}{body}</table></div>\n"
        );
    }

    /// The whole page.
    pub(crate) fn finish(self) -> String {
        self.0 + "</body></html>\n"
    }
}

/// Escapes text for use in markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_complete_in_itself_and_escaped() {
        let mut page = Page::new("<title>");
        page.cards(&[Card::new("<1>", "<card>")]);
        page.heading("<heading>");
        page.note("<note>");
        page.note("");
        page.list(["<item>".to_owned()]);
        page.text("<text>");
        page.table(&["<head>".to_owned()], &[vec!["<cell>".to_owned()]]);
        page.chart(&chart::bars(&[("<bar>".to_owned(), 1)]));
        let page = page.finish();
        for name in [
            "1", "card", "heading", "note", "item", "text", "head", "cell", "bar",
        ] {
            assert!(page.contains(&format!("&lt;{name}&gt;")), "{name}");
        }
        for unwanted in [
            "<note>",
            "http:",
            "https:",
            "<script",
            "<link",
            "@import",
            "<p class=\"note\"></p>",
        ] {
            assert!(!page.contains(unwanted), "{unwanted}");
        }
        assert!(page.ends_with("</html>\n"));
    }
}
