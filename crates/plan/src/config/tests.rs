use std::collections::BTreeMap;

use athanor_crds::{MachineState, bootprofile::Success};

use super::*;
use crate::boot_plan::{FORMAT, MachineKey, Order, Source};

fn mac() -> MacAddr {
    "52:54:00:aa:00:01".parse().unwrap()
}

fn plan(safe: Safe) -> BootPlan {
    BootPlan {
        format: FORMAT,
        machine: MachineKey { namespace: "default".into(), name: "m1".into() },
        state: MachineState::Provisioning,
        token: "s-1".into(),
        previous_token: None,
        interfaces: Vec::new(),
        hostname: None,
        local_boot: athanor_crds::machine::LocalBoot::default(),
        loader: None,
        safe,
        order: None,
        work: None,
        metadata: None,
        wake: false,
    }
}

fn ordered(linux: Option<Linux>) -> BootPlan {
    let source = Source::Iso { path: "a.iso".into(), member: "vmlinuz".into() };
    let order = Order {
        attempt: "a-1".into(),
        deployment: "web's".into(),
        report_token: "r-1".into(),
        script: String::new(),
        linux,
        files: BTreeMap::from([("kernel".into(), source)]),
        trees: BTreeMap::new(),
        success: Success::Reported,
    };
    BootPlan { order: Some(order), ..plan(Safe::Wait { reason: "Waiting".into(), message: "it waits".into() }) }
}

fn installer() -> Linux {
    let arguments = "console=ttyS0 dyndbg=\"file ahci +p\" title=it's".into();
    Linux { kernel: "kernel".into(), initrds: vec!["initrd0".into(), "http://10.0.0.9:81/more.gz".into()], arguments, ..Linux::default() }
}

fn step(plan: &BootPlan) -> Step {
    Step::of(plan, Part::Order, mac(), "192.168.10.1:7481", "http://192.168.10.1:7481", Duration::ZERO)
}

#[test]
fn names_mean_what_each_loader_means_by_them() {
    let asked = |file, who| Some(Asked { file, who });
    for (name, means) in [
        ("/grub/grub.cfg", asked(File::GrubLoop, Who::Asking)),
        ("grub.cfg", asked(File::GrubLoop, Who::Asking)),
        ("l/grub.cfg-01-52-54-00-aa-00-01", asked(File::GrubLoop, Who::Asking)),
        ("grub.cfg-evil", None),
        ("/grub/next-52:54:00:aa:00:01", asked(File::Grub, Who::Mac(mac()))),
        ("grub/next-52:54", None),
        ("grub/x86_64-efi/command.lst", None),
        ("pxelinux.cfg/01-52-54-00-aa-00-01", asked(File::Pxelinux, Who::Mac(mac()))),
        ("pxelinux.cfg/C0A80A64", asked(File::Pxelinux, Who::Asking)),
        ("pxelinux.cfg/C0A80A6", None),
        ("pxelinux.cfg/b8945908-d6a6-41a9-611d-74a6ab80b83d", asked(File::Pxelinux, Who::Asking)),
        ("pxelinux.cfg/default", asked(File::Pxelinux, Who::Asking)),
        ("pxelinux.cfg/../default", None),
        ("debian/pxelinux.cfg/default", None),
        ("boot.scr.uimg", asked(File::UBootLoop, Who::Asking)),
        ("uboot/next-52:54:00:aa:00:01", asked(File::UBoot, Who::Mac(mac()))),
        ("9ffefdef/config.txt", asked(File::RaspberryConfig, Who::Asking)),
        ("9ffefdef/cmdline.txt", asked(File::RaspberryCommandLine, Who::Asking)),
        ("9ffefdef/start4.elf", None),
        ("raspberr/config.txt", None),
        ("", None),
    ] {
        assert_eq!(Asked::of(name), means, "{name}");
    }
}

#[test]
fn an_order_in_the_words_of_each_loader() {
    let Step::Boot(boot) = step(&ordered(Some(installer()))) else { panic!("it boots") };
    let files_only = Boot { initrds: boot.initrds[..1].to_vec(), ..boot.clone() };
    let text = |image: Vec<u8>| String::from_utf8(image[72..].to_vec()).unwrap();
    insta::assert_snapshot!("grub", grub::step(&Step::Boot(boot.clone())));
    insta::assert_snapshot!("pxelinux", pxelinux::file(&Step::Boot(boot.clone()), mac()));
    insta::assert_snapshot!("uboot", text(uboot::step(&Step::Boot(files_only.clone()))));
    insta::assert_snapshot!("raspberry", raspberry::config(&files_only) + &raspberry::command_line(&files_only));
    assert!(text(uboot::step(&Step::Boot(boot))).contains("U-Boot fetches over TFTP alone, not http://10.0.0.9:81/more.gz"));
}

#[test]
fn loops_and_waits_in_the_words_of_each_loader() {
    let wait = step(&plan(Safe::Wait { reason: "Unaccepted".into(), message: "accept it: athanorctl accept m1; $(evil)".into() }));
    let disk = step(&plan(Safe::LocalDisk { reason: "Provisioned".into() }));
    let text = |image: Vec<u8>| String::from_utf8(image[72..].to_vec()).unwrap();
    let chain = step(&ordered(None));
    let all = [
        grub::first(),
        grub::step(&chain),
        pxelinux::file(&chain, mac()),
        text(uboot::step(&chain)),
        text(uboot::first()),
        grub::step(&wait),
        grub::step(&disk),
        pxelinux::file(&wait, mac()),
        pxelinux::file(&disk, mac()),
        text(uboot::step(&wait)),
        text(uboot::step(&disk)),
    ];
    insta::assert_snapshot!("loops_and_waits", all.join("--------\n"));
}

#[test]
fn what_a_machine_does_is_what_ipxe_would_do() {
    let message = |step: Step| match step {
        Step::Boot(boot) => format!("boot {}", boot.kernel),
        Step::Chain { message } => format!("chain {message}"),
        Step::Disk { message } => format!("disk {message}"),
        Step::Wait { message } => format!("wait {message}"),
    };
    let of = |plan: &BootPlan, part, waited| message(Step::of(plan, part, mac(), "192.168.10.1:7481", "http://192.168.10.1:7481", waited));
    let order = ordered(Some(installer()));
    let then = plan(Safe::LocalDiskThenWait { reason: "Unaccepted".into(), message: "accept it".into() });
    assert_eq!(of(&order, Part::Order, Duration::ZERO), "boot /b/s-1/f/kernel");
    assert_eq!(of(&order, Part::Safe, Duration::ZERO), "wait default/m1 is Provisioning, Waiting. it waits");
    assert!(of(&order, Part::NoFiles, Duration::ZERO).starts_with("wait default/m1 is Provisioning, ContentUnavailable. A file of web's"));
    assert_eq!(of(&ordered(None), Part::Order, Duration::ZERO), "chain default/m1 boots web's, an iPXE script");
    assert!(of(&then, Part::Order, Duration::ZERO).starts_with("wait"));
    assert_eq!(of(&then, Part::Order, ipxe::WAIT_BEFORE_DISK), "disk default/m1 boots its disk, Unaccepted");
}
