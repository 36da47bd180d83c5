#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use athanor_crds::deployment::SecretKey;
use k8s_openapi::ByteString;

use super::*;
use crate::term::Indexed as _;

fn deployment(more: Value) -> Deployment {
    let mut spec = json!({ "machine": { "selector": {} }, "profile": { "name": "golden" }, "hostname": "web-1", "instanceID": "i-1" });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({ "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "Deployment", "metadata": { "name": "web-1", "namespace": "default" }, "spec": spec })).unwrap()
}

fn given(user_data: &str) -> Given {
    Given { user_data: Some(user_data.to_owned()), ..Given::default() }
}

fn secret(type_: &str) -> Secret {
    let data = [("value".to_owned(), ByteString(b"#cloud-config\n".to_vec())), ("odd".to_owned(), ByteString(vec![0xff]))];
    Secret { type_: Some(type_.to_owned()), data: Some(data.into()), ..Secret::default() }
}

#[test]
fn a_secret_is_used_when_it_was_meant_for_that() {
    let source = |key: &str| SecretSource { secret_ref: SecretKey { name: "s".into(), key: key.into() } };
    let with_bmc = json!({ "apiVersion": "metal.athanor.dev/v1alpha1", "kind": "Machine", "metadata": { "name": "m", "namespace": "default" },
        "spec": { "interfaces": [], "bmc": { "address": "redfish://10.0.0.1", "credentials": { "name": "s" } } } });
    let with_bmc: Machine = serde_json::from_value(with_bmc).unwrap();
    assert!(with_bmc.terms().contains(&of_bmc(Some("default"), "s")) && !with_bmc.terms().contains(&of_bmc(Some("other"), "s")));
    let says = |key: &str, secret: Option<Secret>, bmc: bool| {
        let usable = usable("spec.userData", "s", secret.as_ref(), names::USER_DATA_TYPE, bmc);
        usable.and_then(|secret| text("spec.userData", &source(key), secret)).map_err(|no| no.message)
    };
    let good = || Some(secret(names::USER_DATA_TYPE));
    assert_eq!(says("value", good(), false).unwrap(), "#cloud-config\n");
    let mut labelled = secret("Opaque");
    labelled.labels_mut().insert(names::USER_DATA_TYPE.to_owned(), String::new());
    assert!(says("value", Some(labelled), false).is_ok());
    for (key, secret, bmc, message) in [
        ("value", None, false, "spec.userData: there is no Secret s in this namespace; create it"),
        (
            "value",
            Some(secret("Opaque")),
            false,
            "spec.userData: Secret s is not meant for machines; give it the type metal.athanor.dev/user-data, or the label metal.athanor.dev/user-data",
        ),
        ("value", good(), true, "spec.userData: Secret s has the credentials of a BMC, which no machine is given; name another"),
        ("values", good(), false, "spec.userData: Secret s has no key values; add it, or name another"),
        ("odd", good(), false, "spec.userData: key odd of Secret s is no text in UTF-8"),
    ] {
        assert_eq!(says(key, secret, bmc).unwrap_err(), message);
    }
}

#[test]
fn the_documents_of_a_deployment() {
    let users = json!({ "users": [{ "name": "ada", "sshKeys": ["ssh-ed25519 AAAA ada"], "sudo": true }], "packages": ["nginx"] });
    let all = Given {
        user_data: Some("#!/bin/sh\necho hello\n".into()),
        network_data: Some("version: 2\nethernets: {}\n".into()),
        meta_data: Some("region: cellar\ninstance-id: mine\nuuid: mine\n".into()),
    };
    let mut told = String::new();
    for (title, deployment, given, datasource) in [
        ("nothing but a name", deployment(json!({})), Given::default(), Datasource::NoCloud),
        ("a Secret's user-data alone", deployment(json!({})), given("#!/bin/sh\n"), Datasource::NoCloud),
        ("everything", deployment(users.clone()), all, Datasource::NoCloud),
        (
            "a config drive",
            deployment(users),
            Given { network_data: Some("links: []\n".into()), ..Given::default() },
            Datasource::ConfigDrive,
        ),
    ] {
        let documents = of(&deployment, &given, datasource).unwrap();
        let _ = writeln!(told, "== {title}, {}", documents.label);
        for (path, text) in documents.files {
            let _ = writeln!(told, "-- {path}\n{}", text.trim_end());
        }
    }
    insta::assert_snapshot!(told);
}

#[test]
fn what_cannot_be_handed_over_is_said_without_quoting_it() {
    let message = |more: Value, given: Given, datasource| of(&deployment(more), &given, datasource).unwrap_err().message;
    let packages = || json!({ "packages": ["nginx"] });
    assert_eq!(
        message(packages(), given("Content-Type: multipart/mixed\n"), Datasource::NoCloud),
        "spec.userData: spec.users and spec.packages can be added to a text that begins with #, such as #cloud-config; write them into this one"
    );
    for text in ["- hunter2\n", "{hunter2", "hunter2"] {
        let bad = || Given { meta_data: Some(text.into()), network_data: Some(text.into()), user_data: None };
        assert_eq!(message(json!({}), bad(), Datasource::NoCloud), "spec.metaData: this is no mapping in YAML or JSON; write one");
        let network = Given { meta_data: None, ..bad() };
        assert_eq!(message(json!({}), network, Datasource::ConfigDrive), "spec.networkData: this is no mapping in YAML or JSON; write one");
    }
}
