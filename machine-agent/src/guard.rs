//! Nobody's data is lost by accident: which disks may be written, and which wiped. No I/O: what is on a disk comes in.

use athanor_wire::{
    Disk, hex,
    work::{Documents, Marker, Wipe, Write},
};
use sha2::{Digest as _, Sha256};

use crate::AgentError;

/// What is to be done about an order to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// It is written.
    Write,
    /// It is on the disk, whole and read back: an earlier attempt got so far and could not tell. It may have run since.
    IsThere,
}

/// Whether a disk may be written to: not with what another installation or Deployment put there, nor with what was there before us, nor with what
/// an attempt of this Deployment completed, for it may have run: an older copy of the API knows nothing of that. `content` is the order's digest.
///
/// # Errors
/// It may not; the message says whose data is there, and what to do.
pub fn may_write(order: &Write, content: &str, name: &str, found: Option<&Marker>, contents: Option<&str>) -> Result<Writing, AgentError> {
    let Some(marker) = found else {
        return match contents {
            Some(contents) if !order.overwrite => {
                Err(AgentError::NotOurs(format!("the disk {name} holds data ({contents}); set spec.existingData: Overwrite to lose it")))
            }
            _ => Ok(Writing::Write),
        };
    };
    if marker.installation != order.marker.installation {
        return Err(AgentError::NotOurs(format!(
            "the disk {name} belongs to another installation ({}); if that one is gone, wipe all of the disk by hand, its end too",
            marker.installation
        )));
    }
    let own = marker.instance == order.marker.instance;
    if marker.is_named(&order.overwrites) || (own && marker.content.is_empty()) {
        return Ok(Writing::Write);
    }
    if own && marker.content == content {
        return Ok(Writing::IsThere);
    }
    Err(AgentError::NotOurs(format!(
        "the disk {name} holds what attempt {1} of the Deployment {0} wrote, and it may have run; add {1} to the Machine's spec.overwrites to lose \
         it, or set the Deployment's deletionPolicy: Retain before you delete it to keep it",
        marker.instance, marker.attempt
    )))
}

/// A digest of what an order puts on a disk: of the image with this digest, and of what is laid beside it.
pub fn content(image: &str, order: &Write) -> String {
    // Who is told that it runs is no matter: that is whichever server gave the order.
    let documents = order.documents.clone().map(|documents| Documents { metadata: None, ..documents });
    let what = serde_json::to_vec(&(image, order.format, order.grow, documents)).unwrap_or_default();
    hex::encode(&Sha256::digest(what))
}

/// Whether a disk's data may go: the Deployment's own, what came onto a disk that was empty before it, or what somebody said may be lost.
///
/// # Errors
/// It may not; the message says whose data is there, and what to do.
pub fn may_wipe(order: &Wipe, disk: &Disk, found: Option<Marker>) -> Result<(), AgentError> {
    let name = &disk.name;
    let known = disk.serial.as_ref().unwrap_or(name);
    match found {
        Some(found) if found.installation != order.installation => Err(AgentError::NotOurs(format!(
            "the disk {name} belongs to another installation ({}); if that one is gone, wipe all of the disk by hand, its end too; or take it out",
            found.installation
        ))),
        Some(found) if found.instance == order.instance || found.is_named(&order.overwrites) => Ok(()),
        Some(found) => Err(AgentError::NotOurs(format!(
            "the disk {name} holds another Deployment, {0}; add {0} to the Machine's spec.overwrites to lose it",
            found.instance
        ))),
        None if order.overwrite || disk.contents.is_none() || order.were_empty.contains(known) => Ok(()),
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
        Some(Marker { installation: installation.into(), instance: instance.into(), attempt: "a-1".into(), ..Marker::default() })
    }

    fn says<T>(result: Result<T, AgentError>) -> String {
        result.map_or_else(|error| error.to_string(), |_| "yes".to_owned())
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
            overwrites: if overwrite { vec!["i-7".into(), "a-8".into()] } else { Vec::new() },
        };
        let of_attempt_8 = marker("home", "i-8").map(|marker| Marker { attempt: "a-8".into(), ..marker });
        for (found, contents, keep, overwrite) in [
            (None, None, "yes", "yes"),
            // It never was whole.
            (marker("home", "i-1"), Some("GPT"), "yes", "yes"),
            (None, Some("ext4"), "holds data (ext4)", "yes"),
            (marker("home", "i-7"), Some("GPT"), "the Deployment i-7 wrote", "yes"),
            (of_attempt_8, Some("GPT"), "attempt a-8 of the Deployment i-8", "yes"),
            // Of this nobody spoke.
            (marker("home", "i-2"), Some("GPT"), "the Deployment i-2 wrote", "add a-1 to the Machine's spec.overwrites"),
            // Not even then.
            (marker("there", "i-1"), Some("GPT"), "another installation (there)", "another installation (there)"),
        ] {
            for (said, expected) in [(order(false), keep), (order(true), overwrite)] {
                let said = says(may_write(&said, "c", "vda", found.as_ref(), contents));
                assert!(said.contains(expected), "{found:?} {contents:?}: {said}");
            }
        }

        let order = order(true);
        let digest = content("an image", &order);
        let whole = Marker { content: digest.clone(), ..mine.clone() };
        let write = |order: &Write, content: &str| may_write(order, content, "vda", Some(&whole), Some("GPT"));
        assert_eq!(write(&order, &digest).unwrap(), Writing::IsThere, "it may have run");
        assert!(says(write(&order, &content("another image", &order))).contains("add a-1 to"), "an older image is none");
        let named = Write { overwrites: vec!["a-1".into()], ..order.clone() };
        assert_eq!(write(&named, &digest).unwrap(), Writing::Write);
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
            overwrites: if overwrite { vec!["i-7".into()] } else { Vec::new() },
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
            (disk("S2", Some("GPT")), marker("home", "i-7"), "another Deployment, i-7", "yes"),
            (disk("S2", Some("GPT")), marker("home", "i-2"), "another Deployment, i-2", "add i-2 to the Machine's spec.overwrites"),
            (disk("S1", Some("GPT")), marker("there", "i-1"), "another installation (there)", "another installation (there)"),
        ] {
            for (said, expected) in [(order(false), keep), (order(true), overwrite)] {
                let said = says(may_wipe(&said, &disk, found.clone()));
                assert!(said.contains(expected), "{disk:?} {found:?}: {said}");
            }
        }
    }
}
