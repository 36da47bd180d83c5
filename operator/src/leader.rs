//! Who of several operators acts: the holder of a Lease. A lease alone is no mutual exclusion (a holder that was asleep may believe that it
//! still leads), so every write of a reconciler is also a compare-and-set on what it read; the lease only keeps two from working against
//! each other all the time.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;

/// How long a lease holds that is not renewed. Whoever waits counts by its own clock from when it saw the last renewal, so clocks may differ.
pub(crate) const LIFETIME: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops, well before anybody else may begin.
pub(crate) const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often a holder renews and the others look.
pub(crate) const PAUSE: Duration = Duration::from_secs(2);

/// What to do about the lease now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is nobody's, or its holder fell silent: take it, as the holder with this number.
    Take {
        /// `leaseTransitions`.
        transitions: i32,
    },
    /// It is ours: renew it.
    Renew,
    /// It is somebody else's.
    Wait,
}

/// Decides on what the lease says and for how long it has said so.
pub(crate) fn decide(lease: Option<&LeaseSpec>, me: &str, unchanged_for: Duration) -> Step {
    let Some(lease) = lease else { return Step::Take { transitions: 0 } };
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let next = Step::Take { transitions: lease.lease_transitions.unwrap_or(0).saturating_add(1) };
    let lifetime = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(LIFETIME, Duration::from_secs);
    match holder {
        "" => next,
        holder if holder == me => Step::Renew,
        _ if unchanged_for >= lifetime => next,
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_nobodys_or_its_holder_fell_silent() {
        let held_by = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        };
        let (other, mine, free) = (held_by("b"), held_by("a"), held_by(""));
        for (lease, silent, step) in [
            (None, 0, Step::Take { transitions: 0 }),
            (Some(&free), 0, Step::Take { transitions: 4 }),
            (Some(&other), 0, Step::Wait),
            (Some(&other), 14, Step::Wait),
            (Some(&other), 15, Step::Take { transitions: 4 }),
            (Some(&mine), 0, Step::Renew),
            (Some(&mine), 60, Step::Renew),
        ] {
            assert_eq!(decide(lease, "a", Duration::from_secs(silent)), step, "{lease:?} silent for {silent} s");
        }
        // A holder stops before anybody else begins.
        assert!(RENEW_DEADLINE + PAUSE < LIFETIME);
    }
}
