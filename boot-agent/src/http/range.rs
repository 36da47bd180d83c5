//! The Range header (RFC 9110 section 14): one range of bytes. Several, or another unit, are answered whole, which the RFC allows.

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    Whole,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    Unsatisfiable,
}

pub(super) fn parse(text: &str, size: u64) -> Range {
    let Some(spec) = text.trim().strip_prefix("bytes=").filter(|spec| !spec.contains(',')) else { return Range::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Range::Whole };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last && first < size => Range::Part(first, last.min(size - 1)),
        (Ok(first), Ok(last)) if first <= last => Range::Unsatisfiable,
        (Ok(first), Err(_)) if last.trim().is_empty() && first < size => Range::Part(first, size - 1),
        (Ok(_), Err(_)) if last.trim().is_empty() => Range::Unsatisfiable,
        (Err(_), Ok(length)) if first.trim().is_empty() && length > 0 && size > 0 => Range::Part(size - length.min(size), size - 1),
        (Err(_), Ok(_)) if first.trim().is_empty() => Range::Unsatisfiable,
        _ => Range::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        for (text, wanted) in [
            ("bytes=0-99", Range::Part(0, 99)),
            ("bytes=900-", Range::Part(900, 999)),
            ("bytes=-100", Range::Part(900, 999)),
            ("bytes=-5000", Range::Part(0, 999)),
            ("bytes=990-5000", Range::Part(990, 999)),
            ("bytes=1000-", Range::Unsatisfiable),
            ("bytes=1000-2000", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=5-2", Range::Whole),
            ("bytes=0-1,5-6", Range::Whole),
            ("lines=1-2", Range::Whole),
            ("bytes=x-y", Range::Whole),
        ] {
            assert_eq!(parse(text, 1000), wanted, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(parse("bytes=-1", 0), Range::Unsatisfiable);
    }
}
