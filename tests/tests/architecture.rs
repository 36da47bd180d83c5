//! The direction of dependence: an arrow goes only downwards. See ARCHITECTURE.md.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// Rooms from the roof down. A room may depend on rooms of lower floors only, never on its own floor.
const FLOORS: &[&[&str]] = &[
    &["athanor-tests"],
    &["athanor", "athanor-sim"],
    &["athanor-operator", "athanor-boot-agent", "athanor-machine-agent", "athanor-local-disk"],
    &["athanor-media", "athanor-apiserver", "athanor-sys"],
    &["athanor-dhcp", "athanor-tftp-server"],
    &["athanor-plan"],
    &["athanor-crds"],
    &["athanor-wire", "athanor-image"],
];

/// Rooms that do no I/O: they may not even see a runtime or a client.
const PURE: &[&str] = &["athanor-wire", "athanor-crds", "athanor-plan", "athanor-dhcp", "athanor-tftp-server"];

fn packages() -> Vec<Package> {
    MetadataCommand::new().no_deps().exec().unwrap().packages
}

fn normal(package: &Package) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal)
        .map(|dependency| dependency.name.clone())
        .collect()
}

#[test]
fn every_arrow_goes_down() {
    let floor: BTreeMap<&str, usize> =
        FLOORS.iter().enumerate().flat_map(|(level, rooms)| rooms.iter().map(move |room| (*room, level))).collect();
    for package in packages() {
        let name = package.name.to_string();
        let level = *floor.get(name.as_str()).unwrap_or_else(|| panic!("{name} is on no floor; put it on one here and in ARCHITECTURE.md"));
        for below in normal(&package).iter().filter_map(|dependency| floor.get(dependency.as_str()).map(|level| (dependency, *level))) {
            assert!(below.1 > level, "{name} depends on {}, which is not below it", below.0);
        }
    }
}

#[test]
fn pure_rooms_see_no_runtime_and_no_client() {
    for package in packages().iter().filter(|package| PURE.contains(&package.name.as_str())) {
        for forbidden in ["tokio", "hyper", "socket2", "nix", "redb", "getrandom", "reqwest", "libc", "anyhow"] {
            assert!(!normal(package).contains(forbidden), "{} is pure, but depends on {forbidden}", package.name);
        }
        let kube = package.dependencies.iter().find(|dependency| dependency.name == "kube");
        let features = kube.map(|kube| kube.features.clone()).unwrap_or_default();
        assert!(!features.iter().any(|feature| feature == "client" || feature == "runtime"), "{} sees kube's client", package.name);
        let rules = package.manifest_path.parent().unwrap().join("clippy.toml");
        assert!(std::fs::read_to_string(&rules).unwrap_or_default().contains("SystemTime::now"), "{rules} does not keep the clock out");
    }
}

#[test]
fn the_machine_agent_sees_no_kubernetes_and_no_runtime() {
    let metadata = MetadataCommand::new().exec().unwrap();
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|package| (package.id.clone(), package.name.to_string())).collect();
    let nodes: BTreeMap<_, _> = metadata.resolve.unwrap().nodes.into_iter().map(|node| (node.id.clone(), node)).collect();
    let start = names.iter().find(|(_, name)| *name == "athanor-machine-agent").unwrap().0;
    let (mut seen, mut todo) = (BTreeSet::new(), vec![start.clone()]);
    while let Some(id) = todo.pop() {
        let is_normal = |dependency: &&cargo_metadata::NodeDep| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
        if seen.insert(names[&id].clone()) {
            todo.extend(nodes[&id].deps.iter().filter(is_normal).map(|dependency| dependency.pkg.clone()));
        }
    }
    for forbidden in ["kube", "kube-client", "k8s-openapi", "tokio", "hyper", "athanor-crds", "athanor-plan"] {
        assert!(!seen.contains(forbidden), "the machine-agent depends on {forbidden}");
    }
    assert!(seen.contains("ring"), "the walk saw nothing");
}

#[test]
fn unsafe_code_lives_in_one_room_and_anyhow_in_programs() {
    for package in packages() {
        let name = package.name.as_str();
        let folder = package.manifest_path.parent().unwrap();
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(inherits, name != "athanor-sys", "{folder}: every room but sys takes the workspace's lints, which deny unsafe code");
        let program = matches!(name, "athanor" | "athanor-tests" | "athanor-image");
        assert!(program || !normal(&package).contains("anyhow"), "{name} is a library: give it an error of its own");
    }
}

#[test]
fn versions_stand_in_one_place() {
    for package in packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        let (dependencies, _) = dependencies.split_once("[lints").unwrap();
        let own: Vec<&str> = dependencies
            .lines()
            .filter(|line| !line.starts_with('['))
            .filter(|line| line.contains("version =") || line.contains("= \""))
            .collect();
        assert!(own.is_empty(), "{}: {own:?}; versions stand in [workspace.dependencies]", package.name);
    }
}
