//! Images onto disks that are files: every format as its own tools make it, and everything that goes wrong on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

mod server;

use std::{
    io::Write as _,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use athanor_machine_agent::{
    device::{Device as _, Disk, Watched},
    gpt::Gpt,
    image::{Http, Image, Progress, Written},
    marker, net, talk,
};
use athanor_wire::{
    ImageFormat, hex,
    work::{Documents, Headers, Marker, Write},
};
use sha2::{Digest as _, Sha256};

use self::server::Server;

const MIB: usize = 1 << 20;
const DISK: usize = 96 * MIB;

/// An image of 40 MiB: data at both ends and in the middle, the rest holes.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 40 * MIB];
    let mut seed = 7_u32;
    for range in [0..3 * MIB + 512, 20 * MIB + 300..22 * MIB, 39 * MIB..40 * MIB] {
        for byte in &mut bytes[range] {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
    }
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(&Sha256::digest(bytes)))
}

fn order(url: &str, checksum: String) -> Write {
    Write {
        url: url.to_owned(),
        checksum,
        ca: None,
        headers: Headers::default(),
        format: None,
        hints: None,
        grow: false,
        documents: None,
        marker: Marker { installation: "here".into(), instance: "i-1".into(), attempt: "a-1".into(), ..Marker::default() },
        overwrite: false,
        overwrites: Vec::new(),
    }
}

/// A disk that is full of somebody's data.
fn disk(size: usize) -> (tempfile::NamedTempFile, Disk) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0xEE; size]).unwrap();
    let disk = Disk::open(file.path()).unwrap();
    (file, disk)
}

fn put(order: &Write, disk: &Disk) -> Result<Written, String> {
    let http = Http::new(talk::agent(net::Names::default()), order).map_err(|error| error.to_string())?;
    Image::open(order, &http).and_then(|image| image.write(disk, &())).map_err(|error| error.to_string())
}

/// Writes what a server has and looks at the disk.
fn written(packed: Vec<u8>, plain: &[u8], format: Option<ImageFormat>) -> Result<Written, String> {
    let server = Server::with(packed.clone());
    let (file, target) = disk(DISK);
    let order = Write { format, ..order(&server.url("disk.img"), sha256(&packed)) };
    let http = Http::new(talk::agent(net::Names::default()), &order).map_err(|error| error.to_string())?;
    let content = Image::open(&order, &http).map_err(|error| error.to_string())?.content();
    let result = put(&order, &target)?;
    let found = std::fs::read(file.path()).unwrap();
    let differs = found.iter().zip(plain).position(|(found, wanted)| found != wanted);
    assert_eq!(differs, None, "the first byte that is not the image's");
    assert_eq!(result.size, plain.len() as u64);
    assert_eq!(marker::read(&target).unwrap(), Some(Marker { content, ..order.marker }));
    Ok(result)
}

fn packed(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut input = tempfile::NamedTempFile::new().unwrap();
    input.write_all(bytes).unwrap();
    let output = Command::new(program).args(arguments).stdin(std::fs::File::open(input.path()).unwrap()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_raw_image_is_written_and_its_holes_are_no_data() {
    let plain = image();
    let result = written(plain.clone(), &plain, None).unwrap();
    assert!(result.data < 8 * MIB as u64, "{} bytes of data: the holes were written", result.data);
}

#[test]
fn every_compression_is_found_by_its_content() {
    let plain = image();
    for (program, arguments) in
        [("gzip", &["-1c"][..]), ("xz", &["-1c"]), ("zstd", &["-qc"]), ("bzip2", &["-1c"]), ("zstd", &["-qc", "--long=25"])]
    {
        let file = packed(program, arguments, &plain);
        let result = written(file, &plain, None).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}"));
        assert_eq!(result.size, plain.len() as u64, "{program}");
    }
}

#[test]
fn files_one_behind_the_other_are_one_image() {
    let plain = image();
    let (one, other) = plain.split_at(10 * MIB);
    for (program, arguments) in [("gzip", &["-1c"][..]), ("xz", &["-1c"]), ("zstd", &["-qc"]), ("bzip2", &["-1c"])] {
        let both = [packed(program, arguments, one), packed(program, arguments, other)].concat();
        written(both, &plain, None).unwrap_or_else(|error| panic!("{program}: {error}"));
    }
}

fn qcow2(plain: &[u8], options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("qcow2"));
    std::fs::write(&raw, plain).unwrap();
    let output = Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args(options).args([&raw, &out]).output().unwrap();
    assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(out).unwrap()
}

#[test]
fn qcow2_in_all_its_forms() {
    let plain = image();
    for options in [
        &[][..],
        &["-o", "compat=0.10"],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-c", "-o", "cluster_size=4k"],
    ] {
        let file = qcow2(&plain, options);
        written(file, &plain, None).unwrap_or_else(|error| panic!("{options:?}: {error}"));
    }
    for (program, arguments) in [("zstd", &["-qc"][..]), ("gzip", &["-1c"])] {
        let file = packed(program, arguments, &qcow2(&plain, &[]));
        written(file, &plain, Some(ImageFormat::Qcow2)).unwrap_or_else(|error| panic!("{program}: {error}"));
    }
}

#[test]
fn how_large_an_image_is_is_known_before_a_disk_is_chosen() {
    let plain = image();
    let length = Some(plain.len() as u64);
    let compressed = packed("zstd", &["-qc"], &qcow2(&plain, &[]));
    for (file, size) in
        [(plain.clone(), length), (qcow2(&plain, &["-c"]), length), (compressed, length), (packed("gzip", &["-1c"], &plain), None)]
    {
        let server = Server::with(file.clone());
        let order = order(&server.url("disk.img"), sha256(&file));
        let http = Http::new(talk::agent(net::Names::default()), &order).unwrap();
        assert_eq!(Image::open(&order, &http).unwrap().size(), size);
    }
}

/// The server says that the work is over as soon as it hears of progress.
struct Over(AtomicBool);

impl Progress for Over {
    fn at(&self, _: &'static str, _: u64, _: Option<u64>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_write_whose_work_is_over_touches_the_disk_no_more() {
    let plain = image();
    let server = Server::with(plain.clone());
    let (_file, disk) = disk(plain.len());
    let over = Over(AtomicBool::new(false));
    let order = order(&server.url("disk.img"), sha256(&plain));
    let http = Http::new(talk::agent(net::Names::default()), &order).unwrap();
    let error = Image::open(&order, &http).unwrap().write(&Watched::new(&disk, &over.0), &over).unwrap_err().to_string();
    assert!(error.ends_with("the work is over"), "{error}");
    let mut first = vec![0xFF; 512];
    disk.read_at(0, &mut first).unwrap();
    assert!(first.iter().all(|byte| *byte == 0), "half an image boots");
}

#[test]
fn qcow2_that_would_open_other_files_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["create", "-q", "-f", "raw", "base", "1M"]);
    run(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "backing"]);
    run(&["create", "-q", "-f", "qcow2", "-o", "data_file=data", "external", "1M"]);
    run(&["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "subclusters", "1M"]);
    // Making an encrypted one takes QEMU a second of counting; its header differs in one byte.
    run(&["create", "-q", "-f", "qcow2", "plain", "1M"]);
    let mut encrypted = std::fs::read(folder.path().join("plain")).unwrap();
    encrypted[35] = 2;
    std::fs::write(folder.path().join("encrypted"), encrypted).unwrap();
    for (name, why) in
        [("backing", "backing file"), ("external", "in another file"), ("encrypted", "encrypted"), ("subclusters", "subclusters")]
    {
        let file = std::fs::read(folder.path().join(name)).unwrap();
        let error = written(file, &[], None).unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
    }
    // Declared as raw, it is written as it stands, and nothing is looked for in it.
    let file = std::fs::read(folder.path().join("backing")).unwrap();
    written(file.clone(), &file, Some(ImageFormat::Raw)).unwrap();
}

/// What a disk holds after a failure boots nothing.
fn boots_nothing(file: &Path) {
    let head = std::fs::read(file).unwrap();
    assert!(head[..MIB].iter().all(|byte| *byte == 0), "its first MiB is not empty");
}

#[test]
fn an_image_that_is_not_what_was_promised_leaves_a_disk_that_does_not_boot() {
    let plain = image();
    let zipped = packed("zstd", &["-qc"], &plain);
    let mut broken = zipped.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    let bomb = packed("zstd", &["-qc"], &vec![0; 2 * DISK]);
    let window = packed("zstd", &["-qc", "--ultra", "--long=27", "--no-content-size"], &[plain.clone(), plain.clone()].concat());
    let short = zipped[..zipped.len() - 100].to_vec();
    let cases: [(&str, Vec<u8>, Option<String>, &str); 6] = [
        ("another file", plain.clone(), Some(sha256(b"x")), "its checksum is sha256:"),
        ("a bit flipped", broken.clone(), Some(sha256(&broken)), "cannot be unpacked as Zstd"),
        ("cut", short.clone(), Some(sha256(&short)), "cannot be unpacked as Zstd"),
        ("a bomb", bomb, None, "the disk"),
        ("a window of 128 MiB", window, None, "windows above 32 MiB are refused"),
        ("too large", vec![1; DISK + 512], None, "choose a larger disk"),
    ];
    for (what, file, checksum, message) in cases {
        let server = Server::with(file.clone());
        let (backing, target) = disk(DISK);
        let error = put(&order(&server.url("disk.img"), checksum.unwrap_or_else(|| sha256(&file))), &target).unwrap_err();
        assert!(error.contains(message), "{what}: {error}");
        if what != "too large" {
            boots_nothing(backing.path());
        }
    }
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_was() {
    let plain = image();
    for ranges in [true, false] {
        let server = Server::with(plain.clone());
        server.breaks_every(7 * MIB);
        server.has_ranges(ranges);
        let (_file, target) = disk(DISK);
        // Without ranges it comes from the beginning each time, and never gets further.
        let result = put(&order(&server.url("disk.img"), sha256(&plain)), &target);
        assert_eq!(result.is_ok(), ranges, "{result:?}");
        if ranges {
            assert!(server.asked() >= 5, "{} questions", server.asked());
        }
    }
}

#[test]
fn a_file_that_is_replaced_meanwhile_is_not_mixed() {
    let plain = image();
    let server = Server::with(plain.clone());
    server.breaks_every(7 * MIB);
    server.replaced_after_break();
    let (file, target) = disk(DISK);
    let error = put(&order(&server.url("disk.img"), sha256(&plain)), &target).unwrap_err();
    assert!(error.contains("was replaced while it was fetched"), "{error}");
    boots_nothing(file.path());
}

#[test]
fn an_endless_image_ends_with_the_disk() {
    let server = Server::endless();
    let (file, target) = disk(DISK);
    let error = put(&order(&server.url("disk.img"), sha256(b"")), &target).unwrap_err();
    assert!(error.contains("choose a larger disk"), "{error}");
    boots_nothing(file.path());
}

#[test]
fn a_file_that_is_not_there_says_so_at_once() {
    let server = Server::with(Vec::new());
    let (file, target) = disk(DISK);
    let error = put(&order(&server.url("other.img"), sha256(b"")), &target).unwrap_err();
    assert!(error.contains("the server answers 404; is the URL right?"), "{error}");
    assert!(std::fs::read(file.path()).unwrap().iter().all(|byte| *byte == 0xEE), "what was there is gone");
}

#[test]
fn a_server_that_wants_headers_sees_them_and_nobody_else() {
    let plain = image();
    let server = Server::with(plain.clone());
    server.demands("Authorization: Bearer s3cr3t");
    let (_file, target) = disk(DISK);
    let bare = order(&server.url("disk.img"), sha256(&plain));
    let error = put(&bare, &target).unwrap_err();
    assert!(error.contains("the server answers 401; look at spec.image.headers"), "{error}");
    let headers = Headers([("Authorization".to_owned(), "Bearer s3cr3t".to_owned())].into());
    let order = Write { headers, ..bare };
    // Also when it begins again.
    server.breaks_every(9 * MIB);
    put(&order, &target).unwrap();
    // A checksum file that is somewhere else is asked without.
    let elsewhere = Server::with(Vec::new());
    elsewhere.demands("Authorization: Bearer s3cr3t");
    let error = put(&Write { checksum: elsewhere.url("SHA256SUMS"), ..order.clone() }, &target).unwrap_err();
    assert!(error.contains("the server answers 401"), "{error}");
    server.sends_to(elsewhere.url("disk.img"));
    let error = put(&order, &target).unwrap_err();
    assert!(error.contains("its server sends elsewhere, where its headers are nobody's to see") && elsewhere.asked() == 1, "{error}");
}

#[test]
fn a_server_over_https_is_checked_with_the_authority_that_is_given() {
    let plain = image();
    let (url, ca) = server::over_tls(plain.clone());
    let (_file, target) = disk(DISK);
    put(&Write { ca: Some(ca), ..order(&url, sha256(&plain)) }, &target).unwrap();
    let (_, stranger) = server::over_tls(Vec::new());
    let error = put(&Write { ca: Some(stranger), ..order(&url, sha256(&plain)) }, &target).unwrap_err();
    assert!(error.contains("its certificate must be vouched for by spec.image.ca"), "{error}");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, says) in [("nothing", "there is no certificate in it"), (&garbage[..30], "give certificates in PEM")] {
        let error = put(&Write { ca: Some(pem.to_owned()), ..order(&url, sha256(&plain)) }, &target).unwrap_err();
        assert!(error.contains("spec.image.ca: ") && error.contains(says), "{error}");
    }
}

#[test]
fn a_checksum_file_names_the_image() {
    let plain = image();
    let server = Server::with(plain.clone());
    server.also("SHA256SUMS", format!("{}  other.img\n{} *disk.img\n", "0".repeat(64), &sha256(&plain)[7..]).into_bytes());
    let (_file, target) = disk(DISK);
    put(&order(&server.url("disk.img"), server.url("SHA256SUMS")), &target).unwrap();
}

#[test]
fn documents_and_a_grown_partition_on_a_gpt() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    std::fs::write(&raw, image()).unwrap();
    let script = "label: gpt\nstart=2048, size=40960\n";
    let mut child = Command::new("sfdisk").arg("-q").arg(&raw).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let plain = std::fs::read(&raw).unwrap();
    let server = Server::with(plain.clone());
    let (file, target) = disk(DISK);
    let documents =
        Documents { label: "cidata".into(), files: [("user-data".to_owned(), "#cloud-config\n".to_owned())].into(), metadata: None };
    put(&Write { grow: true, documents: Some(documents), ..order(&server.url("disk.img"), sha256(&plain)) }, &target).unwrap();
    // The kernel's own tool finds nothing to complain about.
    let listed = Command::new("sfdisk").args(["--verify"]).arg(file.path()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&listed.stdout), String::from_utf8_lossy(&listed.stderr));
    assert!(listed.status.success() && text.contains("No errors detected"), "{text}");
    let head = std::fs::read(file.path()).unwrap();
    let partitions = Gpt::parse(&head[..MIB], 512).unwrap().partitions();
    let (start, end) = marker::config_place(DISK as u64).unwrap();
    assert_eq!(partitions.iter().map(|extent| (extent.start, extent.end)).collect::<Vec<_>>(), [(MIB as u64, start), (start, end)]);
    assert_eq!(&head[start as usize + 43..start as usize + 49], b"cidata");
}
