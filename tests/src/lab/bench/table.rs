//! A table, for a terminal and for Markdown.

/// Columns with a heading each, and rows with one cell per column.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) heads: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// The conclusion, or an empty string.
    pub(crate) note: String,
}

impl Table {
    pub(crate) fn new(title: &str, heads: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            heads: heads.iter().map(|head| (*head).to_owned()).collect(),
            rows: Vec::new(),
            note: String::new(),
        }
    }

    pub(crate) fn add(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.heads.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// Markdown with aligned columns, readable in a terminal too.
    pub(crate) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.heads[column].chars().count()]).max()
        };
        let widths: Vec<usize> = (0..self.heads.len()).filter_map(width).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths);
            let padded: Vec<String> = padded
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            format!("| {} |\n", padded.join(" | "))
        };
        let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let mut text = format!("{}\n\n{}{}", self.title, line(&self.heads), line(&rules));
        self.rows.iter().for_each(|row| text += &line(row));
        if !self.note.is_empty() {
            text += &format!("\n{}\n", self.note);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new("T", &["a", "bb"]);
        table.add(["1".to_owned(), "2".to_owned()]);
        table.add(["333".to_owned(), "4".to_owned()]);
        let expected = "T\n\n| a   | bb |\n| --- | -- |\n| 1   | 2  |\n| 333 | 4  |\n";
        assert_eq!(table.text(), expected);
    }
}
