//! Texts that came over the network, as logs, reports and terminals may show them.

use std::fmt::Write as _;

/// A text as a terminal may show it: control characters, and those that turn the direction of writing, are spelled out. At most so many
/// characters.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let hidden =
        |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let (mut out, mut length) = (String::with_capacity(text.len().min(most)), 0);
    for c in text.chars() {
        length += if hidden(c) { c.escape_default().count() } else { 1 };
        if length > most {
            break;
        }
        if hidden(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A path without its token: tokens are in no log and no report.
pub(crate) fn redact(path: &str) -> String {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["b", _, rest @ ..] => format!("b/…/{}", rest.join("/")),
        ["v1", "report", _] => "v1/report/…".to_owned(),
        ["v1", "metadata", _, rest @ ..] => format!("v1/metadata/…/{}", rest.join("/")),
        _ => path.trim_start_matches('/').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_cannot_write_on_the_terminal() {
        assert_eq!(plain("ok\u{1b}[2J\nforged", 64), "ok\\u{1b}[2J\\nforged");
        assert_eq!(plain("a\u{202e}b", 64), "a\\u{202e}b");
        assert_eq!(plain("Straße", 5), "Straß");
    }

    #[test]
    fn tokens_are_in_no_report() {
        assert_eq!(redact("/b/secret/f/kernel"), "b/…/f/kernel");
        assert_eq!(redact("/v1/report/secret"), "v1/report/…");
        assert_eq!(redact("/v1/metadata/secret/latest/user-data"), "v1/metadata/…/latest/user-data");
        assert_eq!(redact("live/vmlinuz"), "live/vmlinuz");
    }
}
