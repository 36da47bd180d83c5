//! Standard output.

use std::io::Write as _;

/// Prints, and ends quietly when nobody reads any more (`athanorctl get … | head`).
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}
