//! The chart, without a cluster: what it makes of five sets of values, and what it refuses.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeMap, process::Command};

use athanor_tests::{ControlPlane, cluster, tools};
use serde_json::Value;

fn helm(line: &str, more: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(ControlPlane::built("helm")?);
    tools::run(command.args(line.split_whitespace()).arg(cluster::chart()).args(["--namespace", "athanor-system"]).args(more))
}

#[test]
fn helm_finds_nothing_to_say_about_it() {
    let said = helm("lint --strict", &[]).unwrap();
    assert!(said.contains("0 chart(s) failed"), "{said}");
}

/// What templates make, without what is generated from the types and a golden already.
fn render(values: &[&str]) -> String {
    let text = helm("template athanor --skip-tests", values).unwrap();
    let own = text.split("\n---\n").filter(|document| !document.contains("/generated/"));
    own.map(|document| format!("---\n{}\n", document.trim().trim_start_matches("---\n"))).collect()
}

#[test]
fn five_sets_of_values_make_what_they_say() {
    let digest = format!("image.digest=sha256:{}", "0".repeat(64));
    for (name, values) in [
        ("default", vec![]),
        ("by-digest", vec!["--set", &digest, "--set", "image.pullSecrets={registry}"]),
        (
            "one-rack",
            vec!["--set", "agent.nodeSelector.rack=a", "--set", "agent.tolerations[0].operator=Exists", "--set", "operator.replicas=1"],
        ),
        ("own-loaders", vec!["--set", "agent.loaderDirs={/srv/loaders}", "--set", "agent.mediaDirs={/srv/iso,/srv/more}"]),
        (
            "bare",
            vec!["--set", "crds.install=false,networkPolicy.enabled=false,podDisruptionBudget.enabled=false,agent.priorityClassName="],
        ),
    ] {
        insta::assert_snapshot!(format!("values-{name}"), render(&values));
    }
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    for (value, place) in [
        ("agent.nodeSelektor.rack=a", "nodeSelektor"),
        ("operator.replicas=0", "replicas"),
        ("agent.httpPort=70000", "httpPort"),
        ("agent.mediaDirs={relative}", "mediaDirs"),
        ("image.digest=abc", "digest"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
    ] {
        let refused = helm("template athanor", &["--set", value]).unwrap_err().to_string();
        assert!(refused.contains(place), "{value}: {refused}");
    }
    let elsewhere = helm("template athanor", &["--namespace", "default"]).unwrap_err().to_string();
    assert!(elsewhere.contains("install it with --namespace athanor-system --create-namespace"), "{elsewhere}");
}

/// Objects by kind and name, without what only Helm needs.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents = text.split("\n---\n").filter_map(|document| serde_saphyr::from_str::<Option<Value>>(document).unwrap());
    documents
        .map(|mut object| {
            let key =
                format!("{} {}", object["kind"].as_str().unwrap_or_default(), object["metadata"]["name"].as_str().unwrap_or_default());
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("labels");
                metadata.remove("annotations");
            }
            if let Some(template) = object.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut) {
                template.remove("annotations");
            }
            if let Some(settings) = object.pointer_mut("/data/agents.yaml") {
                *settings = serde_saphyr::from_str(settings.as_str().unwrap_or_default()).unwrap();
            }
            (key, object)
        })
        .collect()
}

#[test]
fn without_helm_it_is_the_same() {
    let folder = cluster::chart().join("../../config/default");
    let plain = objects(&tools::run(Command::new(tools::kubectl().unwrap()).arg("kustomize").arg(folder)).unwrap());
    let mut charted = objects(
        &helm("template athanor --skip-tests", &["--set", "podDisruptionBudget.enabled=false,networkPolicy.enabled=false"]).unwrap(),
    );
    for (key, object) in &plain {
        if key == "Namespace athanor-system" {
            continue;
        }
        let mut other = charted.remove(key).unwrap_or_else(|| panic!("the chart has no {key}"));
        // Two replicas on one node are better than one: the plain manifest says nothing about where.
        if let Some(pod) = other.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) {
            pod.remove("affinity");
        }
        if let Some(settings) = other.pointer_mut("/data/agents.yaml").and_then(Value::as_object_mut) {
            settings.remove("imagePullSecrets");
        }
        assert_eq!(*object, other, "{key}");
    }
    assert!(charted.is_empty(), "only the chart has {:?}", charted.keys());
}
