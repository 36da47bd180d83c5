//! Nobody's data is lost by accident: which disks may be written, and which wiped. No I/O: what is on a disk comes in.

use athanor_wire::{
    Disk,
    work::{Marker, Wipe, Write},
};

use crate::AgentError;

/// Whether a disk may be written to: not with what another installation or Deployment put there, nor with what was there before us.
///
/// # Errors
/// It may not; the message says whose data is there, and what to do.
pub fn may_write(order: &Write, name: &str, found: Option<Marker>, contents: Option<&str>) -> Result<(), AgentError> {
    if let Some(found) = found {
        if found.installation != order.marker.installation {
            return Err(AgentError::NotOurs(format!(
                "the disk {name} belongs to another installation ({}); if that one is gone, wipe the disk by hand",
                found.installation
            )));
        }
        // An earlier attempt of the same Deployment left half of it.
        if found.instance == order.marker.instance || order.overwrite {
            return Ok(());
        }
        return Err(AgentError::NotOurs(format!(
            "the disk {name} holds the Deployment {}; release that first, or set spec.existingData: Overwrite",
            found.instance
        )));
    }
    match contents {
        Some(contents) if !order.overwrite => {
            Err(AgentError::NotOurs(format!("the disk {name} holds data ({contents}); set spec.existingData: Overwrite to lose it")))
        }
        _ => Ok(()),
    }
}

/// Whether a disk's data may go: the Deployment's own, what came onto a disk that was empty before it, or what somebody said may be lost.
///
/// # Errors
/// It may not; the message says whose data is there, and what to do.
pub fn may_wipe(order: &Wipe, disk: &Disk, found: Option<Marker>) -> Result<(), AgentError> {
    let name = &disk.name;
    let known = disk.serial.as_ref().unwrap_or(name);
    match found {
        Some(found) if found.installation != order.installation => {
            Err(AgentError::NotOurs(format!("the disk {name} belongs to another installation ({}); it is not wiped", found.installation)))
        }
        _ if order.overwrite => Ok(()),
        Some(found) if found.instance == order.instance => Ok(()),
        Some(found) => Err(AgentError::NotOurs(format!(
            "the disk {name} holds another Deployment ({}); set spec.existingData: Overwrite to lose it",
            found.instance
        ))),
        None if disk.contents.is_none() || order.were_empty.contains(known) => Ok(()),
        None => Err(AgentError::NotOurs(format!(
            "the disk {name} holds data that was there before the Deployment ({}); set spec.existingData: Overwrite to lose it",
            disk.contents.as_deref().unwrap_or_default()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use athanor_wire::{WipePolicy, work::Headers};

    use super::*;

    fn marker(installation: &str, instance: &str) -> Option<Marker> {
        Some(Marker { installation: installation.into(), instance: instance.into(), attempt: "a-1".into() })
    }

    fn says(result: Result<(), AgentError>) -> String {
        result.map_or_else(|error| error.to_string(), |()| "yes".to_owned())
    }

    #[test]
    fn only_its_own_disks_and_empty_ones_are_written() {
        let mine = marker("home", "i-1").unwrap();
        let order = |overwrite| Write {
            url: String::new(),
            checksum: String::new(),
            ca: None,
            headers: Headers::default(),
            format: None,
            hints: None,
            grow: false,
            documents: None,
            marker: mine.clone(),
            overwrite,
        };
        for (found, contents, keep, overwrite) in [
            (None, None, "yes", "yes"),
            (marker("home", "i-1"), Some("GPT"), "yes", "yes"),
            (None, Some("ext4"), "holds data (ext4)", "yes"),
            (marker("home", "i-2"), Some("GPT"), "holds the Deployment i-2", "yes"),
            // Not even then.
            (marker("there", "i-1"), Some("GPT"), "another installation (there)", "another installation (there)"),
        ] {
            for (said, expected) in [(order(false), keep), (order(true), overwrite)] {
                let said = says(may_write(&said, "vda", found.clone(), contents));
                assert!(said.contains(expected), "{found:?} {contents:?}: {said}");
            }
        }
    }

    #[test]
    fn only_what_the_deployment_put_there_is_wiped() {
        let order = |overwrite| Wipe {
            policy: WipePolicy::Metadata,
            expected: Vec::new(),
            installation: "home".into(),
            instance: "i-1".into(),
            were_empty: vec!["S1".into()],
            overwrite,
        };
        let disk = |serial: &str, contents: Option<&str>| Disk {
            name: "vda".into(),
            serial: Some(serial.into()),
            contents: contents.map(str::to_owned),
            ..Disk::default()
        };
        for (disk, found, keep, overwrite) in [
            (disk("S1", None), None, "yes", "yes"),
            (disk("S1", Some("LVM")), None, "yes", "yes"),
            (disk("S2", Some("LVM")), None, "there before the Deployment (LVM)", "yes"),
            (disk("S2", Some("GPT")), marker("home", "i-1"), "yes", "yes"),
            (disk("S2", Some("GPT")), marker("home", "i-2"), "another Deployment (i-2)", "yes"),
            (disk("S1", Some("GPT")), marker("there", "i-1"), "another installation (there)", "another installation (there)"),
        ] {
            for (said, expected) in [(order(false), keep), (order(true), overwrite)] {
                let said = says(may_wipe(&said, &disk, found.clone()));
                assert!(said.contains(expected), "{disk:?} {found:?}: {said}");
            }
        }
    }
}
