//! iPXE scripts, built from typed commands. No string is pasted into a script: a text that iPXE would read as syntax is refused.
//!
//! iPXE has no quoting. A line is split at blanks; `||`, `&&` and `;` between blanks join commands; `${…}` expands anywhere; a line ends at
//! a newline. So a text is safe when it holds none of these, and that is what [`words`] checks.
//!
//! The scripts stay with commands of the iPXE that distributions package (Debian's is of 2019): no `imgverify`, no `param`.

use std::{fmt::Write as _, time::Duration};

use athanor_crds::{conditions::reasons, machine::LocalBoot};

use athanor_wire::{metadata, work::SERVERS_WORD};

use crate::{
    boot_plan::{BootPlan, Linux, Safe},
    loader::{LOCAL_DISK, LOCAL_DISK_ARM64},
    metadata::Metadata,
};

/// How long a waiting machine sleeps between two questions. With the question itself it stays below five seconds.
pub const POLL_SECONDS: u32 = 3;
/// How long a machine waits under `LocalDiskThenWait`, from its firmware's first question: with one more pause and the way out of iPXE it
/// is back at its own disk within 35 s.
pub const WAIT_BEFORE_DISK: Duration = Duration::from_secs(25);
/// The same in questions, for a machine whose server fell silent and tells no time.
pub const POLLS_BEFORE_DISK: u32 = 8;
/// After so many questions without an answer a machine asks DHCP again: its server may be gone, and another one answers. Each may take iPXE
/// most of a minute where the host is gone, too.
pub const LOST_POLLS: u32 = 2;
/// How often the files of an order are asked for, with pauses of 1 and 2 s, before the machine asks DHCP again.
pub const FETCH_TRIES: u32 = 3;

/// A text that iPXE would not take literally.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what} cannot stand in an iPXE script; leave it out")]
pub struct Unquotable {
    /// The field the text comes from.
    pub field: String,
    /// What stands in it.
    pub what: String,
}

/// Checks that iPXE takes a text literally, blanks aside: runs of blanks become one.
///
/// # Errors
/// It holds a control character, `${`, or a word that is `||`, `&&` or `;` or begins with `#`.
pub fn words(field: &str, text: &str) -> Result<String, Unquotable> {
    let refuse = |what: &str| Unquotable { field: field.to_owned(), what: what.to_owned() };
    if let Some(bad) = text.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(refuse(&format!("the control character {}", bad.escape_default())));
    }
    if text.contains("${") {
        return Err(refuse("\"${\""));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if let Some(word) = words.iter().find(|word| matches!(**word, "||" | "&&" | ";") || word.starts_with('#')) {
        return Err(refuse(&format!("the word {word:?}")));
    }
    Ok(words.join(" "))
}

/// A text for people, made harmless: what [`words`] refuses becomes a blank.
pub fn harmless(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() || matches!(c, '$' | '#' | ';' | '|' | '&') { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a loader fetches it from where it stands, rather than out of the order's files.
pub fn is_url(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}

/// The script of an order that boots Linux: fetch with growing pauses, boot, and back to waiting if that fails. With a token the guest is told
/// where to report. `disk` is how the machine is sent to its own disk.
pub fn linux(linux: &Linux, report: Option<&str>, disk: LocalBoot) -> String {
    let place = |name: &str| if is_url(name) { name.to_owned() } else { format!("${{base}}/f/{name}") };
    let mut out = String::from("set tries:int32 0\nset pause:int32 1\n:again\nimgfree\n");
    let initrds = || linux.initrds.iter().enumerate().map(|(index, at)| (format!("initrd{index}"), place(at)));
    let names: String = initrds().map(|(name, _)| format!(" initrd={name}")).collect();
    let own = if linux.arguments.is_empty() { String::new() } else { format!(" {}", linux.arguments) };
    let report = report.map(|token| format!(" athanor.report=${{report}}/{token}")).unwrap_or_default();
    let servers = if linux.asks_servers { format!(" {SERVERS_WORD}${{servers}}") } else { String::new() };
    let seed = linux.metadata.as_ref().map(|token| seed("${server}", token)).unwrap_or_default();
    let place_of_kernel = place(&linux.kernel);
    let _ = writeln!(out, "kernel {place_of_kernel}{names}{own} BOOTIF=01-${{netX/mac:hexhyp}}{report}{servers}{seed} || goto retry");
    for (name, at) in initrds() {
        let _ = writeln!(out, "initrd --name {name} {at} || goto retry");
    }
    out.push_str("boot ||\n:retry\ninc tries\n");
    let _ = writeln!(out, "iseq ${{tries}} {FETCH_TRIES} && goto give_up ||");
    out.push_str("echo Athanor: fetching failed, trying again in ${pause} s\nsleep ${pause}\ninc pause ${pause}\ngoto again\n");
    out.push_str(":give_up\nimgfree\necho Athanor: the files could not be fetched here\ngoto lost\n");
    out.push_str(&ask_again(disk));
    out
}

/// The kernel's argument that tells cloud-init where its data is. iPXE joins commands at `;` between blanks only.
pub(crate) fn seed(server: &str, token: &str) -> String {
    format!(" ds=nocloud;s={}", metadata::url(server, token))
}

/// What firmware knows about the machine, as a query: a newcomer has vendor, product, serial and UUID before anything else runs on it.
const FACTS: &str = "uuid=${uuid}&serial=${serial:uristring}&vendor=${manufacturer:uristring}&product=${product:uristring}\
                     &platform=${platform}&arch=${buildarch}&polls=${polls}";

fn ask_again(disk: LocalBoot) -> String {
    format!(
        ":wait\nsleep {POLL_SECONDS}\ninc polls\niseq ${{polls}} {POLLS_BEFORE_DISK} && goto local ||\n\
         chain --replace --autofree ${{base}}/poll?{FACTS} ||\n\
         inc lost\niseq ${{lost}} {LOST_POLLS} && goto lost ||\ngoto wait\n\
         :lost\necho Athanor: asking DHCP for another server\nset lost:int32 0\ndhcp && chain --replace --autofree ${{filename}} ||\ngoto wait\n\
         :local\niseq ${{disk}} yes && goto disk ||\ngoto wait\n{}",
        to_disk(disk)
    )
}

/// Leaves to the first disk. On UEFI a program starts it, since firmware would try its other networks first; a plain `exit` would end in the
/// firmware's setup, so it fails on purpose.
fn to_disk(how: LocalBoot) -> String {
    let program = format!(
        "iseq ${{buildarch}} x86_64 && chain --autofree ${{server}}/l/{LOCAL_DISK} ||\n\
         iseq ${{buildarch}} arm64 && chain --autofree ${{server}}/l/{LOCAL_DISK_ARM64} ||\n"
    );
    let efi = match how {
        LocalBoot::NoOffer => program,
        LocalBoot::Exit => String::new(),
        LocalBoot::Sanboot => format!("sanboot --no-describe --drive 0 ||\n{program}"),
    };
    format!(
        ":disk\necho Athanor: booting the local disk\niseq ${{platform}} efi && goto disk_efi ||\n\
         sanboot --no-describe --drive 0x80 ||\necho Athanor: the local disk does not boot\nset disk no\ngoto wait\n\
         :disk_efi\n{efi}exit 1\n"
    )
}

/// Where a script finds the agent that serves it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The plan's folder: `http://192.168.10.1:7481/b/<token>`.
    pub base: &'a str,
    /// Where guests report: `http://192.168.10.1:7481/v1/report`.
    pub report: &'a str,
    /// The agent itself: `http://192.168.10.1:7481`.
    pub server: &'a str,
    /// It and those that may take over, with commas between them.
    pub servers: &'a str,
}

/// Which part of a plan is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its order, if it has one.
    Order,
    /// Its safe part: what the agent knows is too old to start anything.
    Safe,
    /// It has an order, but a file of that cannot be served now: the machine waits until it can.
    NoFiles,
}

/// The whole script an agent answers with.
///
/// `waited` is how long ago the machine's firmware first asked in this boot.
pub fn script(plan: &BootPlan, part: Part, place: &Place<'_>, waited: Duration) -> String {
    let mut out = String::from("#!ipxe\n");
    let _ = writeln!(
        out,
        "set base {}\nset report {}\nset server {}\nset servers {}\nset lost:int32 0\nisset ${{polls}} || set polls:int32 0",
        place.base, place.report, place.server, place.servers
    );
    let who = &plan.machine;
    match (&plan.order, &plan.safe) {
        (Some(order), _) if part == Part::NoFiles => {
            let message = format!("a file of {0} cannot be served now: athanorctl describe deployment {0}", order.deployment);
            out.push_str(&park(plan, "set disk no", reasons::CONTENT_UNAVAILABLE, &message));
        }
        (Some(order), _) if part == Part::Order => {
            let _ = writeln!(out, "set disk no\necho Athanor: {who} boots {}", harmless(&order.deployment));
            if let Some(token) = plan.metadata.as_ref().filter(|_| order.linux.is_none()).and_then(Metadata::told_by_script) {
                // A script of one's own tells it its system as it likes.
                let _ = writeln!(out, "set metadata {}", metadata::url(place.server, &token));
            }
            out.push_str(&order.script);
        }
        (_, Safe::LocalDisk { reason }) => {
            let _ = writeln!(out, "set disk yes\necho Athanor: {who} runs from its disk, {}", harmless(reason));
            out.push_str("goto disk\n");
            out.push_str(&ask_again(plan.local_boot));
        }
        (_, Safe::Wait { reason, message }) => out.push_str(&park(plan, "set disk no", reason, message)),
        // Only once a boot: a disk that did not boot has set this to no, and the machine waits.
        (_, Safe::LocalDiskThenWait { reason, message }) => {
            let mut disk = "isset ${disk} || set disk yes".to_owned();
            if waited >= WAIT_BEFORE_DISK {
                disk.push_str("\niseq ${disk} yes && goto disk ||");
            }
            out.push_str(&park(plan, &disk, reason, message));
        }
    }
    out
}

fn park(plan: &BootPlan, disk: &str, reason: &str, message: &str) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{disk}");
    let _ = writeln!(out, "echo Athanor: {} is {}, {}", plan.machine, plan.state, harmless(reason));
    let _ = writeln!(out, "echo {}", harmless(message));
    out.push_str(&ask_again(plan.local_boot));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_ipxe_would_read_as_syntax_is_refused() {
        assert_eq!(words("spec.cmdline", "console=ttyS0  quiet").unwrap(), "console=ttyS0 quiet");
        for (text, what) in [
            ("a\nshell", "the control character \\n"),
            ("a ${net0/mac}", "\"${\""),
            ("a || shell", "the word \"||\""),
            ("a ; shell", "the word \";\""),
            ("#a", "the word \"#a\""),
        ] {
            let error = words("spec.cmdline", text).unwrap_err().to_string();
            assert_eq!(error, format!("spec.cmdline: {what} cannot stand in an iPXE script; leave it out"));
        }
    }

    #[test]
    fn the_script_of_an_order() {
        let linux =
            Linux { kernel: "kernel".into(), initrds: vec!["initrd0".into()], arguments: "console=ttyS0".into(), ..Linux::default() };
        insta::assert_snapshot!(super::linux(&linux, Some("r-1"), LocalBoot::default()));
    }

    proptest! {
        #[test]
        fn a_harmless_text_stays_on_its_line_and_expands_nothing(text in "\\PC*|.*\n.*") {
            let out = harmless(&text);
            prop_assert!(!out.contains('\n') && !out.contains('$'));
            prop_assert!(words("x", &out).is_ok());
        }
    }
}
