//! What commands print: tables for people, JSON for programs.

use bytesize::ByteSize;
use comfy_table::{Table, presets};
use serde::Serialize;

/// Prints `value` as indented JSON.
///
/// # Errors
/// When standard output is closed or the value has no JSON form.
pub fn print_json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    print_text(&serde_json::to_string_pretty(value)?)
}

/// Prints text and a line end.
///
/// # Errors
/// When standard output is closed.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// Prints a table without borders, its header in capitals.
///
/// # Errors
/// When standard output is closed.
pub fn print_table(header: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let text: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    print_text(&text.join("\n"))
}

/// Bytes for people, in binary units.
#[must_use]
pub fn bytes(count: u64) -> String {
    ByteSize::b(count).display().iec().to_string()
}

/// A share of a whole for people, as `12 %`.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{} %", u128::from(part) * 100 / u128::from(whole))
}
