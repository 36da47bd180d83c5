//! What the boot script says on the kernel's command line.

use athanor_wire::work::{MAX_SERVERS, SERVERS_WORD, TOKEN_WORD};

/// Whom to ask, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Servers in the order they are asked, `http://192.168.10.1:7481`.
    pub servers: Vec<String>,
    /// The machine's token.
    pub token: String,
    /// The interface that the firmware booted from, `01-52-54-00-aa-00-01` as PXELINUX writes it.
    pub boot_mac: Option<String>,
}

/// Reads a command line. Words that are not ours belong to the kernel.
pub fn parse(text: &str) -> CommandLine {
    let mut all = CommandLine::default();
    for word in text.split_ascii_whitespace() {
        if let Some(servers) = word.strip_prefix(SERVERS_WORD) {
            let servers = servers.split(',').filter(|server| server.starts_with("http://") || server.starts_with("https://"));
            all.servers = servers.take(MAX_SERVERS).map(|server| server.trim_end_matches('/').to_owned()).collect();
        } else if let Some(token) = word.strip_prefix(TOKEN_WORD) {
            token.clone_into(&mut all.token);
        } else if let Some(mac) = word.strip_prefix("BOOTIF=") {
            all.boot_mac = mac.get(3..).map(|mac| mac.replace('-', ":").to_lowercase());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_words_are_found_among_the_kernels() {
        let all = parse(
            "initrd=a console=ttyS0 athanor.servers=http://10.0.0.1:7481/,ftp://x,http://10.0.0.2:7481 athanor.token=t-1 BOOTIF=01-52-54-00-AA-00-01\n",
        );
        assert_eq!(all.servers, ["http://10.0.0.1:7481", "http://10.0.0.2:7481"]);
        assert_eq!((all.token.as_str(), all.boot_mac.as_deref()), ("t-1", Some("52:54:00:aa:00:01")));
        assert_eq!(parse("quiet"), CommandLine::default());
    }
}
