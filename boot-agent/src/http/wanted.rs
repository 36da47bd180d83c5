//! What of a file is sent: its conditions (RFC 9110 section 13) and its range (section 14). One range of bytes; several, or another unit, are
//! answered whole, which the RFC allows.

use ::http::{HeaderMap, HeaderName, Method, header};

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    Unsatisfiable,
    /// The client has it.
    NotModified,
    /// The client goes on with something else.
    PreconditionFailed,
}

impl Wanted {
    /// What a request asks for, of a file with an entity tag (in its quotes) and a size.
    pub(super) fn of(method: &Method, headers: &HeaderMap, etag: &str, size: u64) -> Self {
        let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let tags =
            |name: HeaderName| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok()).flat_map(|tags| tags.split(','));
        // The strong comparison (section 13.1.1), and the weak one (13.1.2). Our tags have no comma.
        if headers.contains_key(header::IF_MATCH) && !tags(header::IF_MATCH).map(str::trim).any(|tag| tag == "*" || tag == etag) {
            return Self::PreconditionFailed;
        }
        let weakly = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag;
        if tags(header::IF_NONE_MATCH).map(str::trim).any(weakly) {
            return Self::NotModified;
        }
        // A range of something that changed meanwhile would not fit what the client has.
        let unchanged = header(header::IF_RANGE).is_none_or(|tag| tag.trim() == etag);
        // It is defined for GET alone (section 14.2).
        header(header::RANGE).filter(|_| unchanged && method == Method::GET).map_or(Self::Whole, |text| range(text, size))
    }
}

fn range(text: &str, size: u64) -> Wanted {
    // Units are compared without regard to case (section 14.1).
    let parts = text.trim().split_once('=').filter(|(unit, spec)| unit.eq_ignore_ascii_case("bytes") && !spec.contains(','));
    let Some((_, spec)) = parts else { return Wanted::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::Whole };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last && first < size => Wanted::Part(first, last.min(size - 1)),
        (Ok(first), Ok(last)) if first <= last => Wanted::Unsatisfiable,
        (Ok(first), Err(_)) if last.trim().is_empty() && first < size => Wanted::Part(first, size - 1),
        (Ok(_), Err(_)) if last.trim().is_empty() => Wanted::Unsatisfiable,
        (Err(_), Ok(length)) if first.trim().is_empty() && length > 0 && size > 0 => Wanted::Part(size - length.min(size), size - 1),
        (Err(_), Ok(_)) if first.trim().is_empty() => Wanted::Unsatisfiable,
        _ => Wanted::Whole,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        for (text, wanted) in [
            ("bytes=0-99", Wanted::Part(0, 99)),
            ("Bytes=0-99", Wanted::Part(0, 99)),
            ("bytes=900-", Wanted::Part(900, 999)),
            ("bytes=-100", Wanted::Part(900, 999)),
            ("bytes=-5000", Wanted::Part(0, 999)),
            ("bytes=990-5000", Wanted::Part(990, 999)),
            ("bytes=1000-", Wanted::Unsatisfiable),
            ("bytes=1000-2000", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("bytes=x-y", Wanted::Whole),
        ] {
            assert_eq!(range(text, 1000), wanted, "{text}");
        }
        assert_eq!(range("bytes=0-", 0), Wanted::Unsatisfiable);
        assert_eq!(range("bytes=-1", 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn conditions_are_read_as_the_rfc_has_them() {
        let part = Wanted::Part(10, 19);
        for (lines, wanted) in [
            (&["if-none-match: \"a\""][..], Wanted::NotModified),
            (&["if-none-match: W/\"a\""], Wanted::NotModified),
            (&["if-none-match: \"x\", \"a\""], Wanted::NotModified),
            (&["if-none-match: *"], Wanted::NotModified),
            (&["if-none-match: \"x\""], Wanted::Whole),
            (&["if-none-match: a"], Wanted::Whole),
            (&["if-match: \"a\""], Wanted::Whole),
            (&["if-match: \"x\",\"a\"", "range: bytes=10-19"], part),
            (&["if-match: \"x\"", "if-match: \"a\""], Wanted::Whole),
            (&["if-match: *", "range: bytes=10-19"], part),
            (&["if-match: \"x\"", "range: bytes=10-19"], Wanted::PreconditionFailed),
            (&["if-match: W/\"a\""], Wanted::PreconditionFailed),
            (&["if-match: \"x\"", "if-none-match: \"a\""], Wanted::PreconditionFailed),
            (&["if-range: \"a\"", "range: bytes=10-19"], part),
            (&["if-range: \"x\"", "range: bytes=10-19"], Wanted::Whole),
            (&["if-range: W/\"a\"", "range: bytes=10-19"], Wanted::Whole),
            (&["if-range: \"a\""], Wanted::Whole),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                let (name, value) = line.split_once(": ").unwrap();
                headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            assert_eq!(Wanted::of(&Method::GET, &headers, "\"a\"", 100), wanted, "{lines:?}");
        }
        let headers = HeaderMap::from_iter([(header::RANGE, "bytes=10-19".parse().unwrap())]);
        assert_eq!(Wanted::of(&Method::HEAD, &headers, "\"a\"", 100), Wanted::Whole);
    }
}
