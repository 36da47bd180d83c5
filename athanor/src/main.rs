//! The one binary.
//!
//! ```text
//!   athanor start services   API, controllers and boot plane in one process     services/
//!   athanor config detect    a configuration out of this machine's network      config/
//!   athanorctl get, deploy, … the CLI; the same file under another name         cli/
//! ```
//!
//! Rooms are wired here and nowhere else: this is the only crate that sees the operator and the boot-agent at once.

mod cli;
mod config;
mod output;
mod planned;
mod services;
mod yaml;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    athanor_sys::share_heaps();
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(cli::run(cli));
    // A thread that waits for a network share that hangs would keep the process for ever.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        eprintln!("error: {}", cli::message(&error));
        ExitCode::FAILURE
    })
}
