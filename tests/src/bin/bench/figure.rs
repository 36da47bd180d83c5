//! A figure: what was measured, beside whom, and what it must reach.

use std::fmt;

/// What a figure must reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    Below(f64),
    AtLeast(f64),
    /// So many times as good as the peer.
    Ratio(f64),
    /// It is only told.
    None,
}

/// What of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// Somebody else, measured in the same run.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) better: Better,
}

/// A figure and its aim.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) aim: Aim,
    pub(crate) unit: &'static str,
    pub(crate) peer: Option<Peer>,
}

impl Figure {
    /// One of our own, with nobody to compare it with.
    pub(crate) fn own(what: impl Into<String>, value: f64, aim: Aim, unit: &'static str) -> Self {
        Self { what: what.into(), value, aim, unit, peer: None }
    }

    /// How many times as good as the peer, whatever the unit.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let peer = self.peer.as_ref()?;
        Some(if peer.better == Better::Higher { self.value / peer.value } else { peer.value / self.value })
    }

    /// The number of its aim.
    pub(crate) fn aim(&self) -> Option<f64> {
        match self.aim {
            Aim::Below(aim) | Aim::AtLeast(aim) | Aim::Ratio(aim) => Some(aim),
            Aim::None => None,
        }
    }

    /// Whether it is as good as it must be.
    pub(crate) fn is_reached(&self) -> bool {
        match self.aim {
            Aim::Below(limit) => self.value < limit,
            Aim::AtLeast(limit) => self.value >= limit,
            Aim::Ratio(limit) => self.ratio().is_some_and(|ratio| ratio >= limit),
            Aim::None => true,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<56} {:>10.3} {:<6}", self.what, self.value, self.unit)?;
        if let (Some(peer), Some(ratio)) = (&self.peer, self.ratio()) {
            write!(f, " {:>10.3} {:<12} x {ratio:.2}", peer.value, peer.name)?;
        }
        match self.aim {
            Aim::Below(limit) => write!(f, " (below {limit:.2} {})", self.unit)?,
            Aim::AtLeast(limit) => write!(f, " (at least {limit:.2} {})", self.unit)?,
            Aim::Ratio(limit) => write!(f, " (at least x {limit:.2})")?,
            Aim::None => {}
        }
        if self.is_reached() { Ok(()) } else { write!(f, "   missed") }
    }
}
