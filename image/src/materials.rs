//! The bill of materials, as SPDX 2.3 (<https://spdx.github.io/spdx-spec/v2.3/>): every crate that is linked, every package that loaders
//! come from.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context as _, bail};
use cargo_metadata::{CargoOpt, DependencyKind, MetadataCommand, PackageId};
use serde_json::{Value, json};

/// The crate whose dependencies are linked.
const ROOT: &str = "athanor";

/// One thing that is in the image.
pub struct Material {
    name: String,
    version: String,
    licence: String,
    /// A package URL: <https://github.com/package-url/purl-spec>.
    url: String,
}

/// What the binary is linked from: normal dependencies alone, neither tests nor build scripts.
///
/// # Errors
/// `cargo metadata` fails.
pub fn crates() -> anyhow::Result<Vec<Material>> {
    let mut command = MetadataCommand::new();
    command.features(CargoOpt::SomeFeatures(Vec::new()));
    command.other_options(["--locked", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"].map(str::to_owned).to_vec());
    let metadata = command.exec().context("cargo metadata")?;
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolves")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let root = metadata.packages.iter().find(|package| package.name.as_str() == ROOT).context("the workspace has the program")?;
    let (mut linked, mut open) = (BTreeSet::new(), vec![&root.id]);
    while let Some(id) = open.pop() {
        if linked.insert(id)
            && let Some(node) = nodes.get(id)
        {
            let normal = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            open.extend(normal.map(|dep| &dep.pkg));
        }
    }
    let mut found: Vec<Material> = metadata
        .packages
        .iter()
        .filter(|package| linked.contains(&package.id))
        .map(|package| Material {
            name: package.name.to_string(),
            version: package.version.to_string(),
            licence: package.license.clone().map_or_else(|| "NOASSERTION".to_owned(), |licence| licence.replace('/', " OR ")),
            url: format!("pkg:cargo/{}@{}", package.name, package.version),
        })
        .collect();
    found.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    Ok(found)
}

/// A Debian package that is installed here.
///
/// # Errors
/// It is not.
pub fn debian(package: &str) -> anyhow::Result<Material> {
    let output = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output().context("dpkg-query")?;
    if !output.status.success() {
        bail!("the package {package} is not installed");
    }
    let version = String::from_utf8(output.stdout)?.trim().to_owned();
    let url = format!("pkg:deb/debian/{package}@{version}");
    Ok(Material { name: package.to_owned(), version, licence: "NOASSERTION".to_owned(), url })
}

/// The bill of an image.
pub fn spdx(image: &str, crates: &[Material], packages: &[Material]) -> String {
    let id = |index: usize| format!("SPDXRef-{index}");
    let mut listed = vec![json!({
        "SPDXID": "SPDXRef-image", "name": image, "downloadLocation": "NOASSERTION", "licenseDeclared": "Apache-2.0", "filesAnalyzed": false
    })];
    let mut relations =
        vec![json!({ "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-image" })];
    for (index, material) in crates.iter().chain(packages).enumerate() {
        listed.push(json!({
            "SPDXID": id(index), "name": material.name, "versionInfo": material.version, "licenseDeclared": material.licence,
            "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
            "externalRefs": [{ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": material.url }]
        }));
        relations.push(json!({ "spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS", "relatedSpdxElement": id(index) }));
    }
    let bill: Value = json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": image,
        "documentNamespace": format!("https://athanor.dev/spdx/{}", image.replace([':', '/'], "-")),
        "creationInfo": { "created": "1970-01-01T00:00:00Z", "creators": ["Tool: athanor-image"] },
        "packages": listed, "relationships": relations
    });
    format!("{bill:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_names_what_is_linked_and_no_tools() {
        let names: Vec<String> = crates().unwrap().into_iter().map(|material| material.name).collect();
        for linked in ["athanor", "athanor-dhcp", "kube-client", "ring", "redb"] {
            assert!(names.iter().any(|name| name == linked), "{linked}");
        }
        for tool in ["athanor-tests", "insta", "proptest", "dhcproto"] {
            assert!(!names.iter().any(|name| name == tool), "{tool}");
        }
    }
}
