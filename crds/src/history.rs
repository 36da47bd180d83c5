//! How far the API's history was seen.

/// The highest `resourceVersion` that was seen of an object that is written again and again. Versions of one API only grow, and are
/// comparable as numbers (Kubernetes 1.35, KEP-5504). One that is lower tells that the API's data was restored from an older copy: then a
/// watch waits silently for versions that are long ahead, and what was listed never was.
#[derive(Debug, Clone, Default)]
pub struct History(u64);

impl History {
    /// Takes in what was read or written now; `true` if the API's data went back in time. The new time counts from here.
    pub fn went_back(&mut self, resource_version: Option<&str>) -> bool {
        let Some(now) = resource_version.and_then(|version| version.parse::<u64>().ok()) else { return false };
        let back = now < self.0;
        self.0 = now;
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lower_version_is_a_step_back() {
        let mut history = History::default();
        let seen = [Some("10"), Some("10"), Some("12"), None, Some("opaque"), Some("7"), Some("8")];
        let back: Vec<bool> = seen.into_iter().map(|version| history.went_back(version)).collect();
        assert_eq!(back, [false, false, false, false, false, true, false]);
    }
}
