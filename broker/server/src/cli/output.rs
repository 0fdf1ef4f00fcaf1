//! What commands print.

use serde_json::Value;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

/// A line for the person at the terminal, on standard error. Nobody there is no reason to fail.
pub(super) fn note(text: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// A line of the result, on standard output.
pub(super) fn line(text: fmt::Arguments<'_>) -> io::Result<()> {
    lines(&format!("{text}\n"))
}

/// Whole lines of the result, or none.
pub(super) fn lines(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A document as JSON for people.
pub(super) fn json(document: &Value) -> io::Result<()> {
    line(format_args!("{document:#}"))
}

/// Rows under headings, as wide as they need to be. Cells are shown without control characters: what others
/// chose as a name must not move the cursor.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(headings.get(column).map(|heading| heading.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(&rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// Text of others on one line: control characters and others that are hidden are shown as escapes.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if waspmq_core::is_hidden(character) {
            // Writing to a string has no errors.
            write!(shown, "{}", character.escape_default()).unwrap_or_default();
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A value of a document as a cell: text without quotes, nothing as `-`.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// One row per item of a list, one column per JSON pointer.
pub(super) fn rows(items: &Value, pointers: &[&str]) -> Vec<Vec<String>> {
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |item: &Value| {
        pointers.iter().map(|pointer| cell(item.pointer(pointer).unwrap_or(&Value::Null))).collect()
    };
    items.iter().map(row).collect()
}

/// Milliseconds since 1970 as UTC time to the second.
pub(super) fn time(value: &Value) -> String {
    let moment = value.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| "-".to_owned(), |moment| moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up() {
        let items = json!([{"a": "x", "b": {"c": 1}}, {"a": "größer", "b": null}]);
        let text = table(&["NAME", "COUNT"], &rows(&items, &["/a", "/b/c"]));
        assert_eq!(text, "NAME    COUNT\nx       1\ngrößer  -");
        assert_eq!(table(&["NAME"], &[]), "NAME");
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(printable("a\x1b[2J\nb\u{9b}ü"), "a\\u{1b}[2J\\nb\\u{9b}ü");
        assert_eq!(printable("a\u{202e}b\u{2066}"), "a\\u{202e}b\\u{2066}");
        assert!(!table(&["N"], &[vec!["\x1b".to_owned()]]).contains('\x1b'));
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(&json!(1_790_000_000_000_u64)), "2026-09-21T14:13:20Z");
        assert_eq!(time(&Value::Null), "-");
    }
}
