//! An OCI image layout (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>) in one archive, as `ctr images import`,
//! `skopeo` and `podman load` take it.

use std::{fs, io::Write as _, path::Path};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::layer::Layer;

/// What the image is for, where tools show it.
const DESCRIPTION: &str = "Athanor: racks of bare metal as a cloud";
/// The time of an image that has none: builds of the same input must be the same bytes.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// An image for amd64 Linux.
pub struct Image {
    /// Repository and tag.
    pub name: String,
    /// What runs.
    pub entrypoint: Vec<String>,
    /// What is in it, the lowest first.
    pub layers: Vec<Layer>,
}

/// What a manifest says of a blob.
struct Blob {
    media_type: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&bytes), bytes }
    }

    fn json(media_type: &'static str, value: &Value) -> Self {
        Self::new(media_type, value.to_string().into_bytes())
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", crate::sha256(bytes))
}

impl Image {
    /// Writes the archive; returns the digest of the image's manifest.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, out: &Path) -> anyhow::Result<String> {
        let (mut blobs, mut diff_ids) = (Vec::new(), Vec::new());
        for layer in &self.layers {
            let tar = layer.tar()?;
            diff_ids.push(digest(&tar));
            let mut packed = GzEncoder::new(Vec::new(), Compression::default());
            packed.write_all(&tar)?;
            blobs.push(Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", packed.finish()?));
        }
        let (repository, tag) = split(&self.name);
        let labels = json!({
            "org.opencontainers.image.title": "athanor", "org.opencontainers.image.description": DESCRIPTION,
            "org.opencontainers.image.version": tag, "org.opencontainers.image.licenses": "Apache-2.0"
        });
        let config = Blob::json(
            "application/vnd.oci.image.config.v1+json",
            &json!({
                "architecture": "amd64", "os": "linux", "created": CREATED,
                "config": { "Entrypoint": self.entrypoint, "Env": ["PATH=/usr/bin"], "WorkingDir": "/", "User": "65532:65532", "Labels": labels },
                "rootfs": { "type": "layers", "diff_ids": diff_ids }
            }),
        );
        let layers: Vec<Value> = blobs.iter().map(Blob::descriptor).collect();
        let manifest = Blob::json(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config.descriptor(), "layers": layers, "annotations": labels
            }),
        );
        let mut listed = manifest.descriptor();
        listed["annotations"] =
            json!({ "org.opencontainers.image.ref.name": tag, "io.containerd.image.name": format!("{repository}:{tag}") });
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [listed] });
        let digest = manifest.digest.clone();
        blobs.extend([config, manifest]);

        let mut archive = Layer::default();
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(), 0o644);
        archive.file("index.json", index.to_string().into_bytes(), 0o644);
        for blob in blobs {
            archive.file(&format!("blobs/{}", blob.digest.replace(':', "/")), blob.bytes, 0o644);
        }
        fs::write(out, archive.tar()?).with_context(|| out.display().to_string())?;
        Ok(digest)
    }
}

/// A name's repository and tag. A colon before the last slash belongs to a port.
fn split(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_tags_and_ports() {
        assert_eq!(split("example.org/athanor:0.1.0"), ("example.org/athanor", "0.1.0"));
        assert_eq!(split("example.org:5000/athanor"), ("example.org:5000/athanor", "latest"));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let image = || {
            let mut layer = Layer::default();
            layer.file("/usr/bin/athanor", vec![7; 4096], 0o755);
            Image { name: "athanor:1".to_owned(), entrypoint: vec!["/usr/bin/a".to_owned()], layers: vec![layer] }
        };
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
        let digests = (image().write(&one).unwrap(), image().write(&other).unwrap());
        assert_eq!(digests.0, digests.1);
        assert_eq!(fs::read(one).unwrap(), fs::read(other).unwrap());
    }
}
