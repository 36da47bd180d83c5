//! What this version acts on. A kind of profile that nothing acts on yet says so instead of doing nothing.

use athanor_crds::{BootProfileSpec, conditions::reasons};

/// Whether a profile can be run, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Whether it can.
    pub supported: bool,
    /// The reason of the condition.
    pub reason: &'static str,
    /// Its message: what, and what to do.
    pub message: String,
}

/// Judges a profile by its spec alone.
pub fn of(profile: &BootProfileSpec) -> Support {
    let kind = profile.type_name();
    let no = |message: String| Support { supported: false, reason: reasons::NOT_SUPPORTED, message };
    if let Some(url) = profile.media.as_ref().and_then(|media| media.url.as_ref()) {
        return no(format!(
            "media from a URL is not fetched by this version; download {url} below a mediaDir and name it as spec.media.path"
        ));
    }
    match kind.as_str() {
        "live" | "script" => {}
        "image" => {
            return Support {
                supported: true,
                reason: reasons::SUPPORTED,
                message: "images are written by the machine-agent, where a server has its ramdisk".to_owned(),
            };
        }
        _ => {
            return no(format!(
                "{kind} profiles are stored, but this version only runs live, script and image profiles; upgrade when a version announces {kind}"
            ));
        }
    }
    for path in profile.kernel.iter().chain(&profile.initrds) {
        if let Some(rest) = path.strip_prefix("http://") {
            if rest.starts_with(['/', '?', '#', ':']) || rest.is_empty() || path.contains(char::is_whitespace) {
                return no(format!("{path}: this is no URL; write it like http://server/path, with %20 for a blank"));
            }
            continue;
        }
        if path.starts_with("https://") {
            return no(format!("{path}: distributions' iPXE cannot fetch https; put the file into an ISO or name an http URL"));
        }
        if path.contains("://") {
            return no(format!("{path}: only http URLs and paths inside spec.media are fetched; name one of these"));
        }
        if profile.media.is_none() {
            return no(format!("{path}: this is a path inside media, but there is no spec.media; name an ISO there, or an http URL here"));
        }
    }
    Support { supported: true, reason: reasons::SUPPORTED, message: format!("{kind} profiles are run by this version") }
}

#[cfg(test)]
mod tests {
    use athanor_crds::bootprofile::{Installer, InstallerType, Live, Media};

    use super::*;

    #[test]
    fn what_is_not_run_yet_says_so_and_what_to_do() {
        let media = Some(Media { path: Some("live.iso".into()), ..Default::default() });
        let live = BootProfileSpec { live: Some(Live {}), media, kernel: Some("live/vmlinuz".into()), ..Default::default() };
        assert!(of(&live).supported);
        let preseed =
            BootProfileSpec { installer: Some(Installer { type_: InstallerType::Preseed, template: None }), ..Default::default() };
        assert_eq!(
            of(&preseed).message,
            "preseed profiles are stored, but this version only runs live, script and image profiles; upgrade when a version announces preseed"
        );
        let url = Media { url: Some("http://x/y.iso".into()), ..Default::default() };
        assert!(!of(&BootProfileSpec { media: Some(url), ..live.clone() }).supported);
        for kernel in ["https://x/vmlinuz", "ftp://x/vmlinuz"] {
            assert!(!of(&BootProfileSpec { kernel: Some(kernel.into()), ..live.clone() }).supported, "{kernel}");
        }
        assert!(!of(&BootProfileSpec { media: None, ..live.clone() }).supported);
        assert!(of(&BootProfileSpec { media: None, kernel: Some("http://x/vmlinuz".into()), ..live }).supported);
    }
}
