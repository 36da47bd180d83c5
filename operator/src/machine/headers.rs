//! What the server of an image wants to see with each request, out of a Secret.

use std::collections::BTreeMap;

use athanor_crds::{BootProfileSpec, names};
use athanor_plan::lifecycle::Obstacle;
use athanor_wire::work::Headers;
use k8s_openapi::api::core::v1::Secret;

use super::documents::{is_of_bmc, obstacle, usable};
use crate::{Cluster, PortError};

/// Where it is said.
const FIELD: &str = "spec.image.headers";
/// How many there may be, and how long each: what HTTP servers take.
const MAX_HEADERS: usize = 16;
const MAX_VALUE: usize = 4096;
/// What a fetch says itself.
const OWN: [&str; 8] = ["accept-encoding", "connection", "content-length", "host", "if-range", "range", "te", "transfer-encoding"];

/// Reads the headers that a profile's image names.
pub(super) async fn read(
    profile: &BootProfileSpec,
    namespace: Option<&str>,
    cluster: &impl Cluster,
) -> Result<Result<Headers, Obstacle>, PortError> {
    let Some(source) = profile.image.as_ref().and_then(|image| image.headers.as_ref()) else { return Ok(Ok(Headers::default())) };
    let name = &source.secret_ref.name;
    let secret = cluster.get::<Secret>(namespace, name).await?;
    let is_bmc = is_of_bmc(namespace, name, cluster).await?;
    Ok(usable(FIELD, name, secret.as_ref(), names::HTTP_HEADERS_TYPE, is_bmc).and_then(|secret| headers(name, secret)))
}

fn headers(name: &str, secret: &Secret) -> Result<Headers, Obstacle> {
    let data = secret.data.iter().flatten();
    let mut all = BTreeMap::new();
    for (header, value) in data {
        let token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !header.chars().all(token) {
            return Err(obstacle(FIELD, format!("key {header} of Secret {name} is no name of an HTTP header")));
        }
        if OWN.contains(&header.to_ascii_lowercase().as_str()) {
            return Err(obstacle(FIELD, format!("Secret {name}: {header} is said by the machine-agent itself; leave it out")));
        }
        let text = std::str::from_utf8(&value.0).map(|text| text.trim_end_matches(['\r', '\n'])).ok();
        let fits = |text: &&str| text.len() <= MAX_VALUE && text.bytes().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e));
        // The value is a secret: it is not quoted.
        let Some(text) = text.filter(fits) else {
            let says = format!("key {header} of Secret {name}: a header is one line of at most {MAX_VALUE} printable ASCII characters");
            return Err(obstacle(FIELD, says));
        };
        all.insert(header.clone(), text.to_owned());
    }
    match all.len() {
        0 => Err(obstacle(FIELD, format!("Secret {name} is empty; its keys are names of headers, like Authorization"))),
        many if many > MAX_HEADERS => Err(obstacle(FIELD, format!("Secret {name} has {many} headers; {MAX_HEADERS} are the most"))),
        _ => Ok(Headers(all)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn headers_are_what_http_takes_and_are_never_quoted() {
        let secret = |entries: &[(&str, &str)]| Secret {
            data: Some(entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect()),
            ..Secret::default()
        };
        let good = headers("s", &secret(&[("Authorization", "Bearer hunter2\n"), ("X-Team", "metal")])).unwrap();
        assert_eq!(good.0["Authorization"], "Bearer hunter2");
        assert_eq!(format!("{good:?}"), r#"{"Authorization", "X-Team"}"#);
        let many: Vec<String> = (0..17).map(|number| format!("X-{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "x")).collect();
        for (entries, says) in [
            (&[][..], "Secret s is empty; its keys are names of headers, like Authorization"),
            (&[("Range", "bytes=0-")][..], "Secret s: Range is said by the machine-agent itself; leave it out"),
            (&[("X", "hunter2\nY: z")][..], "key X of Secret s: a header is one line of at most 4096 printable ASCII characters"),
            (&[("X", "pä")][..], "key X of Secret s: a header is one line of at most 4096 printable ASCII characters"),
            (&many[..], "Secret s has 17 headers; 16 are the most"),
        ] {
            assert_eq!(headers("s", &secret(entries)).unwrap_err().message, format!("spec.image.headers: {says}"));
        }
    }
}
