//! The nearest name to a mistyped one, for every message that can offer it.

/// How many letters a name may be off, at the most, to be offered: more is a guess, not a typing mistake.
const MAX_DISTANCE: usize = 5;

/// The candidate nearest to `wanted`, if one is near enough.
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&wanted.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= MAX_DISTANCE.min(wanted.chars().count().div_ceil(2)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean "…"?`, or nothing.
pub fn hint<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wanted, candidates).map(|candidate| format!("; did you mean {candidate:?}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_name_and_a_guess_does_not() {
        let keys = ["gateway", "dns", "ranges"];
        assert_eq!(nearest("gatway", keys), Some("gateway"));
        assert_eq!(nearest("Range", keys), Some("ranges"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("x", keys), None);
    }
}
