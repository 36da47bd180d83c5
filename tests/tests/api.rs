//! The embedded API, as the kubectl that people have talks to it, and as controllers do.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use athanor_tests::{Curl, Rack, Service, rack::Process, tools, wait_for};

struct Kubectl<'a> {
    rack: &'a Rack,
    service: &'a Service<'a>,
}

impl Kubectl<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = self.rack.command(tools::kubectl().unwrap());
        command.env("KUBECONFIG", self.service.kubeconfig()).env("HOME", self.rack.folder()).args(line.split_whitespace());
        command
    }

    /// What kubectl prints, standard error behind standard output, and whether it was content.
    fn run(&self, line: &str, input: &str) -> (bool, String) {
        let mut child = self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    }

    fn ok(&self, line: &str, input: &str) -> String {
        let (fine, text) = self.run(line, input);
        assert!(fine, "kubectl {line}\n{text}\n{}", self.service.log());
        text
    }

    fn refused(&self, line: &str, input: &str) -> String {
        let (fine, text) = self.run(line, input);
        assert!(!fine, "kubectl {line} should have failed:\n{text}");
        text
    }
}

const MACHINE: &str = "apiVersion: metal.athanor.dev/v1alpha1\nkind: Machine\nmetadata: {name: m1, labels: {rack: a3}}\nspec:\n  accepted: true\n  interfaces: [{mac: \"52:54:00:aa:00:21\", boot: true}]\n";

#[test]
fn what_kubectl_prints_goes_back_as_it_came() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let kubectl = Kubectl { rack: &rack, service: &service };
    kubectl.ok("apply -f -", MACHINE);
    kubectl.ok("create configmap shared --from-literal=a=b", "");
    // At rest: who writes over what changed meanwhile is refused.
    service.wait_state("machine", "m1", "Available", 10).unwrap();
    let list = kubectl.ok("get machines,configmaps -o yaml", "");
    assert!(list.contains("kind: List"), "{list}");
    kubectl.ok("replace -f -", &list);
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}",
        MACHINE.replace("m1", "m3").replace(":21", ":23").trim_end().replace('\n', "\n  ")
    );
    assert!(kubectl.ok("apply -f -", &list).contains("m3 created"));
    kubectl.ok("apply --server-side --force-conflicts -f -", &list);
    assert!(kubectl.refused("apply -f -", &list.replace("accepted: true", "acepted: true")).contains("unknown field"));
}

#[test]
fn kubectl_works_as_people_know_it() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let kubectl = Kubectl { rack: &rack, service: &service };

    assert!(kubectl.ok("apply -f -", MACHINE).contains("machine.metal.athanor.dev/m1 created"));
    assert!(kubectl.ok("apply -f -", MACHINE).contains("machine.metal.athanor.dev/m1 unchanged"));
    service.wait_state("machine", "m1", "Available", 10).unwrap();
    let table = kubectl.ok("get am", "");
    assert!(
        table.contains("NAME") && table.contains("STATE") && table.contains("52:54:00:aa:00:21") && table.contains("Available"),
        "{table}"
    );
    // By a field that the table has not.
    kubectl.ok("apply -f -", &MACHINE.replace("name: m1", "name: m2").replace("aa:00:21", "aa:00:20"));
    let table = kubectl.ok("get am --sort-by=.spec.interfaces[0].mac", "");
    assert!(table.find("m2") < table.find("m1") && table.contains("m2"), "{table}");
    kubectl.ok("delete am m2", "");
    assert!(kubectl.ok("get machines -l rack=a3 -o name", "").contains("machine.metal.athanor.dev/m1"));
    assert!(kubectl.ok("get machines -l rack=b1", "").contains("No resources found"));
    assert!(kubectl.ok("get athanor", "").contains("m1"));
    assert!(
        kubectl.ok("describe machine m1", "").contains("Accepted By Person")
            || kubectl.ok("describe machine m1", "").contains("AcceptedByPerson")
    );
    assert!(kubectl.ok("explain machine.spec.wipe", "").contains("policy"));

    // A change of an applied file takes back what the file no longer says.
    let relabelled = MACHINE.replace("labels: {rack: a3}", "labels: {row: two}");
    assert!(kubectl.ok("apply -f -", &relabelled).contains("configured"));
    let labels = kubectl.ok("get am m1 -o jsonpath={.metadata.labels}", "");
    assert_eq!(labels, "{\"row\":\"two\"}");

    // Server-side: another manager's field is a conflict that names both.
    kubectl.ok("apply --server-side --field-manager=one -f -", &MACHINE.replace("m1", "m2").replace(":21", ":22"));
    let conflict = kubectl.refused(
        "apply --server-side --field-manager=two -f -",
        &MACHINE.replace("m1", "m2").replace(":21", ":22").replace("true\n", "false\n"),
    );
    assert!(conflict.contains("conflict with \"one\": .spec.accepted"), "{conflict}");
    kubectl.ok(
        "apply --server-side --force-conflicts --field-manager=two -f -",
        &MACHINE.replace("m1", "m2").replace(":21", ":22").replace("true\n", "false\n"),
    );

    // An empty map says nothing about what others have in it.
    let config_map = |labels: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shared, labels: {{{labels}}}}}\n");
    kubectl.ok("apply --server-side --field-manager=one -f -", &config_map("a: x"));
    kubectl.ok("apply --server-side --field-manager=two -f -", &config_map(""));
    kubectl.ok("apply --server-side --field-manager=two --force-conflicts -f -", &config_map(""));
    let managers = kubectl.ok("get configmap shared --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}", "");
    assert!(managers.contains("one"), "{managers}");
    assert_eq!(kubectl.ok("get configmap shared -o jsonpath={.metadata.labels.a}", ""), "x");

    // Secrets, which kubectl patches strategically.
    kubectl.ok("apply -f -", "apiVersion: v1\nkind: Secret\nmetadata: {name: bmc}\nstringData: {username: root, password: x}\n");
    kubectl.ok("label secret bmc kind=bmc", "");
    assert_eq!(kubectl.ok("get secret bmc -o jsonpath={.data.username}", ""), "cm9vdA==");
    for (secret, says) in [
        ("{name: bmc}, type: kubernetes.io/tls, data: {tls.crt: \"\", tls.key: \"\"}", "type"),
        ("{name: new, labels: {\"a b\": x}}", "a b"),
        ("{name: new, labels: {a: -x}}", "-x"),
        ("{name: new}, data: {\"a/b\": \"\"}", "a/b"),
    ] {
        let said = kubectl.refused("apply -f -", &format!("{{apiVersion: v1, kind: Secret, metadata: {secret}}}"));
        assert!(said.contains("nvalid") && said.contains(says), "{secret}\nsaid: {said}");
    }
    kubectl.ok("patch secret bmc -p {\"immutable\":true}", "");
    for patch in ["{\"immutable\":false}", "{\"data\":{\"username\":\"eA==\"}}"] {
        let said = kubectl.refused(&format!("patch secret bmc -p {patch}"), "");
        assert!(said.contains("field is immutable when `immutable` is set"), "{patch}\nsaid: {said}");
    }
    assert!(kubectl.refused("create namespace a.b", "").contains("a.b"));
    assert!(kubectl.ok("patch am m1 --type=merge -p {\"spec\":{\"cordoned\":true}}", "").contains("patched"));
    service.wait("machine", "m1", 10, |machine| machine["status"]["conditions"].to_string().contains("Cordoned")).unwrap();
    assert!(kubectl.ok("delete am m1 m2", "").contains("deleted"));
    assert!(kubectl.refused("get am m1", "").contains("not found"));
    if service.is_embedded() {
        assert!(kubectl.refused("delete namespace athanor-plans", "").contains("may not be deleted"));
    }
}

#[test]
fn kubectl_creates_watches_describes_and_takes_over() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let kubectl = Kubectl { rack: &rack, service: &service };

    // These write protobuf.
    kubectl.ok("create namespace team", "");
    kubectl.ok("create secret generic bmc -n team --from-literal=password=pä", "");
    assert_eq!(kubectl.ok("get secret bmc -n team -o jsonpath={.data.password}", ""), "cMOk");
    kubectl.ok("create configmap notes -n team --from-literal=rack=a3", "");
    assert!(kubectl.ok("describe secret bmc -n team", "").contains("password:  3 bytes"));

    let mut watching = kubectl.command("get machines -w --no-headers -o custom-columns=N:.metadata.name,S:.status.state");
    let seen = rack.file("watched.txt");
    let _watch = Process(watching.stdout(std::fs::File::create(&seen).unwrap()).spawn().unwrap());
    kubectl.ok("apply -f -", MACHINE);
    wait_for("the watch", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(&seen).unwrap();
        if text.lines().any(|line| line.split_whitespace().eq(["m1", "Available"])) { Ok(()) } else { Err(text) }
    })
    .unwrap();

    // What happened is told, and kubectl finds it.
    let told = wait_for("an event", Duration::from_secs(10), || {
        let text = kubectl.ok("describe machine m1", "");
        if text.contains("athanor-operator") { Ok(text) } else { Err(text) }
    })
    .unwrap();
    assert!(told.contains("Normal  Available"), "{told}");
    assert!(kubectl.ok("get events", "").contains("machine/m1"));

    // From client-side to server-side apply: what the file no longer says goes.
    let two = MACHINE.replace("boot: true}]", "boot: true}, {mac: \"52:54:00:aa:00:29\"}]");
    kubectl.ok("apply -f -", &two);
    kubectl.ok("apply --server-side -f -", &two);
    kubectl.ok("apply --server-side -f -", MACHINE);
    assert_eq!(kubectl.ok("get am m1 -o jsonpath={.spec.interfaces[*].mac}", ""), "52:54:00:aa:00:21");

    // What the controllers could not read is never stored: one such object would keep them from all others.
    for (object, says) in [
        (
            "kind: Machine\napiVersion: metal.athanor.dev/v1alpha1\nmetadata: {name: x, ownerReferences: x}\nspec: {interfaces: [{mac: \"52:54:00:aa:00:77\"}]}",
            "ownerReferences",
        ),
        (
            "kind: Subnet\napiVersion: metal.athanor.dev/v1alpha1\nmetadata: {name: x}\nspec: {cidr: 10.0.0.0/24, leaseSeconds: 3600.5}",
            "spec.leaseSeconds in body must be of type integer: \"number\"",
        ),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: x}\ndata: {a: 5}", "cannot be handled as a Secret"),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: x}\ndata: {a: not base64!!}", "cannot be handled as a Secret"),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: x}\ndata: x\nstringData: {a: b}", "cannot be handled as a Secret"),
        ("kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\ndata: {b: {x: 1}}", "cannot be handled as a ConfigMap"),
    ] {
        for how in ["apply --validate=false -f -", "apply --server-side --validate=false -f -", "create --validate=false -f -"] {
            let said = kubectl.refused(how, object);
            assert!(said.contains(says) || !service.is_embedded(), "{how} {object}\nsaid: {said}");
        }
    }
    let nested = format!("{}{}", "{\"a\":".repeat(60), "1".to_owned() + &"}".repeat(60));
    let deep = format!("{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"x\"}},\"x\":{nested}}}");
    if service.is_embedded() {
        assert!(kubectl.refused("create --validate=false -f -", &deep).contains("it nests deeper than"), "{deep}");
    }
    assert!(kubectl.refused("get am --field-selector status.state=Available", "").contains("field label not supported"));

    for (patch, says) in [
        ("[{\"op\":\"replace\",\"path\":\"/metadata\",\"value\":\"x\"}]", "metadata: must be an object"),
        ("[{\"op\":\"replace\",\"path\":\"\",\"value\":5}]", "the body is no object"),
        ("[{\"op\":\"replace\",\"path\":\"/kind\",\"value\":\"Pod\"}]", "kind is \"Pod\", but the URL is for \"Machine\""),
        ("[{\"op\":\"remove\",\"path\":\"/spec/nothing\"}]", "the patch cannot be applied"),
    ] {
        let said = kubectl.refused(&format!("patch am m1 --type=json -p {patch}"), "");
        // Kubernetes refuses them in words of its own.
        assert!(said.contains(says) || !service.is_embedded(), "{patch}\nsaid: {said}");
    }
    kubectl.ok("delete namespace team", "");
    assert!(kubectl.refused("get secret bmc -n team", "").contains("not found"));
}

#[test]
fn what_cannot_be_is_refused_with_the_field_and_what_to_do() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let kubectl = Kubectl { rack: &rack, service: &service };
    let object =
        |kind: &str, spec: &str| format!("apiVersion: metal.athanor.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n");
    for (kind, spec, says) in [
        ("Machine", "{interfaces: [{mac: 52-54-00-AA-00-01}]}", "must be a MAC address in lower case with colons, like 52:54:00:aa:00:01"),
        ("Machine", "{interfaces: [{mac: \"01:54:00:aa:00:01\"}]}", "must be the address of one station"),
        ("Machine", "{interfaces: [{mac: \"00:00:00:00:00:00\"}]}", "must be the address of one station"),
        ("Subnet", "{cidr: 224.0.0.0/24}", "must be a network of hosts"),
        ("Subnet", "{cidr: 0.0.0.0/0}", "must be a network of hosts"),
        ("BootProfile", "{live: {}, kernel: k, media: {path: a, prefix: ../x}}", "leads out of its folder"),
        ("BootProfile", "{live: {}, kernel: k, media: {path: a, prefix: b/x}}", "is a folder of the server's own"),
        ("Machine", "{}", "give at least one interface with its MAC, or a BMC to find them"),
        ("Machine", "{interfaces: [{mac: \"52:54:00:aa:00:01\"}, {mac: \"52:54:00:aa:00:01\"}]}", "Duplicate value"),
        ("Machine", "{interfaces: [{mac: \"52:54:00:aa:00:01\"}], acepted: true}", "unknown field \"spec.acepted\""),
        ("Machine", "{interfaces: [{mac: \"52:54:00:aa:00:01\"}], architecture: amd65}", "supported values: \"amd64\""),
        (
            "Machine",
            "{interfaces: [{mac: \"52:54:00:aa:00:01\"}], accepted: yes please}",
            "spec.accepted in body must be of type boolean: \"string\"",
        ),
        ("Subnet", "{cidr: 10.0.0.0}", "must be a network in CIDR notation, like 192.168.10.0/24"),
        ("Subnet", "{cidr: 10.0.0.1/24}", "has bits set behind its prefix"),
        ("Subnet", "{cidr: 010.5.0.0/24}", "has a leading zero"),
        ("Subnet", "{cidr: 10.0.0.0/24, gateway: 10.0.1.1}", "spec.gateway"),
        ("Subnet", "{cidr: 10.0.0.0/24, gateway: 10.0.0.0}", "is the network's own address, not a gateway's"),
        ("Subnet", "{cidr: 10.0.0.0/24, gateway: here}", "must be an IPv4 or IPv6 address"),
        ("Subnet", "{cidr: 10.0.0.0/24, ranges: [{from: 10.0.0.9, to: 10.0.0.3}]}", "from must not come after to"),
        ("Subnet", "{cidr: 10.0.0.0/24, ranges: [{from: 10.0.0.9, to: 10.0.1.3}]}", "every range must be inside the cidr"),
        ("Subnet", "{cidr: 10.0.0.0/24, options: [{code: 53, hex: \"01\"}]}", "this option is decided by the server"),
        ("Subnet", "{cidr: 10.0.0.0/24, options: [{code: 43, hex: \"012\"}]}", "needs an even number of hexadecimal digits"),
        ("Subnet", "{cidr: 10.0.0.0/24, leaseSeconds: 5}", "should be greater than or equal to 120"),
        ("BootProfile", "{kernel: k}", "give exactly one of live, installer, image, nfsRoot, iscsiRoot, script"),
        ("BootProfile", "{live: {}, script: {ipxe: shell}, kernel: k}", "give exactly one of live"),
        ("BootProfile", "{live: {}}", "need a kernel"),
        ("BootProfile", "{live: {}, kernel: k, media: {path: a, url: \"http://b/c\"}}", "give exactly one of path and url"),
        ("BootProfile", "{live: {}, kernel: k, media: {url: \"http://b/c\"}}", "media from a url needs a checksum"),
        ("BootProfile", "{image: {url: \"file:///etc/passwd\", checksum: \"sha256:00\"}}", "should match"),
        ("Deployment", "{machine: {name: a, mac: \"52:54:00:aa:00:01\"}, profile: {name: p}}", "give one of name, mac, or selector"),
        (
            "Deployment",
            "{machine: {selector: {matchExpressions: [{key: rack, operator: In}]}}, profile: {name: p}}",
            "In and NotIn need values; Exists and DoesNotExist take none",
        ),
        ("Deployment", "{machine: {}, profile: {}}", "give exactly one of name and inline"),
        ("Deployment", "{profile: {name: p}}", "spec.machine: Required value"),
        ("Deployment", "{machine: {}, profile: {name: p}, hostname: Web_1}", "spec.hostname"),
        ("Deployment", "{machine: {}, profile: {name: p}, packages: [\"a b\"]}", "spec.packages[0]"),
        ("Deployment", "{machine: {minimum: {memory: lots}}, profile: {name: p}}", "spec.machine.minimum.memory"),
    ] {
        let said = kubectl.refused("apply -f -", &object(kind, spec));
        assert!(said.contains(says), "{kind} {spec}\nsaid: {said}\nwanted: {says}");
    }
    let long = format!(
        "apiVersion: metal.athanor.dev/v1alpha1\nkind: Subnet\nmetadata: {{name: {}}}\nspec: {{cidr: 10.0.0.0/24}}\n",
        "x".repeat(64)
    );
    assert!(kubectl.refused("apply -f -", &long).contains("must be no more than 63 characters"));
    assert!(kubectl.refused("-n nowhere apply -f -", MACHINE).contains("namespaces \"nowhere\" not found"));
}

#[test]
fn secrets_have_what_their_type_promises() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    let kubectl = Kubectl { rack: &rack, service: &service };
    for (kind, data, field) in [
        ("tls", "tls.key: aw==", "data[tls.crt]"),
        ("ssh-auth", "key: aw==", "data[ssh-privatekey]"),
        ("basic-auth", "user: aw==", "data[username]"),
        ("dockerconfigjson", "config: aw==", "data[.dockerconfigjson]"),
    ] {
        let secret = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\ntype: kubernetes.io/{kind}\ndata: {{{data}}}\n");
        let said = kubectl.refused("create -f -", &secret);
        assert!(said.contains(field) && said.contains("Required value"), "{secret}\nsaid: {said}");
    }
    // What is written as text and is there already is no change.
    kubectl.ok("create secret generic texts --from-literal=a=b", "");
    let text = r#"patch secret texts -p {"stringData":{"a":"b"}}"#;
    assert_eq!(kubectl.ok(text, "").trim(), "secret/texts patched (no change)");
    assert_eq!(kubectl.ok("get secret texts -o jsonpath={.metadata.generation}", ""), "", "core kinds that we have count no generations");
}

#[test]
fn an_acknowledged_write_survives_kill_9() {
    let rack = Rack::up().unwrap();
    let mut service = Service::start(&rack).unwrap();
    for number in 10..30 {
        service.ctl(&format!("create machine m{number} --mac 52:54:00:aa:01:{number}")).unwrap();
    }
    service.kill();
    service.restart().unwrap();
    let names = service.ctl("get machines -o name").unwrap();
    assert_eq!(names.lines().count(), 20, "{names}");
}

#[test]
fn what_the_file_does_not_name_is_kubectls_to_change() {
    let rack = Rack::up().unwrap();
    let mut service = Service::start(&rack).unwrap();
    if !service.is_embedded() {
        // Only the embedded API has a file.
        return;
    }
    let subnet = |service: &Service<'_>, field: &str| service.get("subnet", "lab").unwrap()["spec"][field].clone();
    {
        let kubectl = Kubectl { rack: &rack, service: &service };
        kubectl.ok("patch subnet lab --type=merge -p {\"spec\":{\"leaseSeconds\":600,\"domain\":\"lab.example\",\"mode\":\"off\"}}", "");
    }
    service.restart().unwrap();
    assert_eq!(subnet(&service, "leaseSeconds"), 600);
    assert_eq!(subnet(&service, "domain"), "lab.example");
    assert_eq!(subnet(&service, "mode"), "dhcp", "what the file says is so at the next start");
    let note = "subnets.lab: the configuration wins over a change since";
    assert!(service.banner().contains(note) && service.banner().contains(".spec.mode"), "{}", service.banner());
}

#[test]
fn any_client_can_verify_the_server_with_what_the_kubeconfig_says() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    if !service.is_embedded() {
        // A real API server's certificates are not ours.
        return;
    }
    // OpenSSL is stricter than Go in what it takes for self-signed.
    let authority = rack.file("data/pki/ca.crt");
    let said = tools::run(rack.command("curl").args(["-sS", "--cacert"]).arg(&authority).arg("https://127.0.0.1:7480/version"));
    assert!(said.is_ok(), "{said:?}");
}

#[test]
fn a_method_that_means_nothing_does_nothing() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    if !service.is_embedded() {
        return;
    }
    let kubectl = Kubectl { rack: &rack, service: &service };
    kubectl.ok("create -f -", MACHINE);
    let curl = Curl::of(&service, &rack).unwrap();
    for (method, path) in [
        ("OPTIONS", ""),
        ("TRACE", ""),
        ("PURGE", ""),
        ("PUT", ""),
        ("PATCH", ""),
        ("OPTIONS", "/m1"),
        ("POST", "/m1"),
        ("PURGE", "/m1"),
        ("DELETE", "/m1/status"),
    ] {
        assert_eq!(curl.ask(method, &format!("machines{path}"), "application/json", "").unwrap().0, "405", "{method} {path}");
        assert!(service.get("machine", "m1").is_ok(), "{method} {path} removed the machine");
    }
    let said = kubectl.refused("delete machine m1 --as=somebody", "");
    assert!(said.contains("knows no impersonation"), "{said}");
    let (_, said) = curl.ask("DELETE", "machines/m1?dryRun=Some", "application/json", "").unwrap();
    assert!(said.contains("dryRun: Unsupported value"), "{said}");
    let versioned = MACHINE.replace("{name: m1,", "{name: m2, resourceVersion: \"7\",");
    let (_, said) = curl.ask("POST", "machines", "application/yaml", &versioned).unwrap();
    assert!(said.contains("resourceVersion should not be set on objects to be created"), "{said}");
    assert!(service.get("machine", "m1").is_ok());
}

#[test]
fn requests_that_kubectl_never_sends_are_answered_as_kubernetes_answers_them() {
    let rack = Rack::up().unwrap();
    let service = Service::start(&rack).unwrap();
    if !service.is_embedded() {
        return;
    }
    let curl = Curl::of(&service, &rack).unwrap();
    let machine = |more: &str, spec: &str| {
        format!(
            "{{\"apiVersion\": \"metal.athanor.dev/v1alpha1\", \"kind\": \"Machine\", \"metadata\": {{\"name\": \"m1\"{more}}}, \"spec\": {{{spec}}}}}"
        )
    };
    let (json, merge, apply) = ("application/json", "application/merge-patch+json", "application/apply-patch+yaml");
    let one = "\"interfaces\": [{\"mac\": \"52:54:00:aa:00:21\"}]";
    assert_eq!(curl.ask("POST", "machines", json, &machine("", one)).unwrap().0, "201");
    let held = "{\"metadata\": {\"finalizers\": [\"metal.athanor.dev/machine\", \"example.com/mine\"]}}";
    assert_eq!(curl.ask("PATCH", "machines/m1", merge, held).unwrap().0, "200");
    let interface = "{\"mac\": \"52:54:00:aa:00:21\"}";
    for (method, path, content_type, body, code, says) in [
        ("POST", "", "text/plain", machine("", one), "415", "the body of the request was in an unknown format"),
        (
            "POST",
            "?fieldValidation=Strict",
            json,
            machine("", &format!("{one}, \"accepted\": true, \"accepted\": false")),
            "400",
            "duplicate field \\\"spec.accepted\\\"",
        ),
        ("PUT", "/m1", json, machine("", one), "422", "metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        (
            "PATCH",
            "/m1?fieldManager=me",
            apply,
            machine("", &format!("\"interfaces\": [{interface}, {interface}]")),
            "422",
            "spec.interfaces[1]: Duplicate value",
        ),
        ("DELETE", "/m1?propagationPolicy=Foo", json, String::new(), "422", "propagationPolicy: Unsupported value: \\\"Foo\\\""),
        ("DELETE", "/m1", json, "{\"propagationPolicy\": \"Foo\"}".to_owned(), "422", "propagationPolicy: Unsupported value: \\\"Foo\\\""),
        ("GET", "?resourceVersion=x", json, String::new(), "400", "resourceVersion: Invalid value: \\\"x\\\""),
        ("GET", "?resourceVersion=999999999", json, String::new(), "504", "Too large resource version: 999999999"),
        ("GET", "?resourceVersionMatch=Exact", json, String::new(), "422", "forbidden unless resourceVersion is provided"),
        ("GET", "?resourceVersion=1&resourceVersionMatch=Exact", json, String::new(), "410", "is too old"),
        ("GET", "?resourceVersion=1&resourceVersionMatch=NotOlderThan", json, String::new(), "200", "m1"),
        ("GET", "?resourceVersion=0", json, String::new(), "200", "m1"),
        // It waits for its finalizers from here on.
        ("DELETE", "/m1?propagationPolicy=Background", json, String::new(), "200", "deletionTimestamp"),
        ("POST", "", json, machine("", one), "409", "object is being deleted: machines.metal.athanor.dev \\\"m1\\\" already exists"),
        (
            "PATCH",
            "/m1",
            merge,
            "{\"metadata\": {\"finalizers\": [\"example.com/mine\", \"example.com/new\"]}}".to_owned(),
            "422",
            "no new finalizers can be added if the object is being deleted, found new finalizers \\\"example.com/new\\\"",
        ),
    ] {
        let (got, said) = curl.ask(method, &format!("machines{path}"), content_type, &body).unwrap();
        assert!(got == code && said.contains(says), "{method} {path} {body}\n{got}: {said}");
    }
    assert_eq!(curl.ask("PATCH", "machines/m1", merge, "{\"metadata\": {\"finalizers\": null}}").unwrap().0, "200");
    assert_eq!(curl.ask("GET", "machines/m1", json, "").unwrap().0, "404");
}
