//! The command line. To add a verb: a variant of [`Command`] and a module beside this one.

mod apply;
mod connect;
mod create;
mod deploy;
mod explain;
mod get;
mod hardware;
mod kinds;
mod lifecycle;
mod simulate;
mod table;
mod wait;
mod wipes;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

pub(crate) use crate::output::out;
use crate::{
    config::{self, DetectArgs},
    services,
};

/// Bare metal that feels like a cloud.
///
/// Plug a machine in: it registers itself. Ask for one with a profile: it is claimed, booted and reported ready.
#[derive(Debug, Parser)]
#[command(name = "athanor", version, propagate_version = true, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Options of every verb that talks to the API.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// How to reach the API [default: $KUBECONFIG, else the one in the data folder of this machine]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace
    #[arg(short, long, global = true, default_value = "default")]
    namespace: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start services
    Start {
        #[command(subcommand)]
        what: Start,
    },
    /// Configurations
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Print how kubectl and athanorctl reach the API of this machine
    Kubeconfig {
        /// The configuration that the services run with
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// List objects, or show some
    Get(get::GetArgs),
    /// Show an object with all that is known about it
    Describe(get::DescribeArgs),
    /// Create a machine, deployment, boot profile or subnet
    Create {
        #[command(subcommand)]
        what: create::Create,
    },
    /// Change a deployment
    Update {
        #[command(subcommand)]
        what: create::Update,
    },
    /// Apply objects from files, as kubectl does
    Apply(apply::ApplyArgs),
    /// Delete an object
    Delete(lifecycle::DeleteArgs),
    /// Accept machines: Athanor may manage them from now on
    Accept(lifecycle::AcceptArgs),
    /// Put a profile on a machine
    Deploy(deploy::DeployArgs),
    /// Wait until an object is ready
    Wait(wait::WaitArgs),
    /// Tell what a machine asked, what it was answered, and why
    Explain(explain::ExplainArgs),
    /// Tell what a client would be answered now, and which row of the decision table says so; nothing is sent
    Simulate(simulate::SimulateArgs),
    /// Tell whether the records of a machine's wipes are true
    VerifyWipe(wipes::VerifyArgs),
    /// Ask a component in the same pod how it fares
    #[command(hide = true)]
    Health(services::AskArgs),
}

#[derive(Debug, Subcommand)]
enum Start {
    /// Serve DHCP, TFTP, HTTP and the API in one process
    Services {
        /// The configuration; `athanor config detect` writes one
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        logging: Logging,
    },
    /// Run the controllers against a Kubernetes API
    Operator {
        #[command(flatten)]
        operator: services::OperatorArgs,
        #[command(flatten)]
        logging: Logging,
    },
    /// Serve DHCP, TFTP and HTTP on this node from what a Kubernetes API says
    Agent {
        #[command(flatten)]
        agent: services::AgentArgs,
        #[command(flatten)]
        logging: Logging,
    },
}

/// What is logged, and how.
#[derive(Debug, Args)]
struct Logging {
    /// What is logged, as a level or per part
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "ATHANOR_LOG")]
    log: String,
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
}

impl Logging {
    fn start(&self) -> anyhow::Result<()> {
        services::start_logging(&self.log, self.log_json)
    }
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a complete configuration out of this machine's real network
    Detect(DetectArgs),
}

/// Does what was asked.
///
/// # Errors
/// Whatever the verb met; [`message`] turns it into one line for people.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Start { what: Start::Services { config, logging } } => {
            logging.start()?;
            Box::pin(services::start(config::load(&config)?, &config)).await?;
        }
        Command::Start { what: Start::Operator { operator, logging } } => {
            logging.start()?;
            services::operator(connect::cluster(global).await?, operator).await?;
        }
        Command::Start { what: Start::Agent { agent, logging } } => {
            logging.start()?;
            services::agent(connect::cluster(global).await?, agent).await?;
        }
        Command::Config { what: ConfigCommand::Detect(args) } => {
            let text = tokio::task::spawn_blocking(move || config::detect(&args)).await??;
            out(&text);
        }
        Command::Kubeconfig { config } => out(&connect::kubeconfig(config.as_deref())?),
        Command::Get(args) => Box::pin(get::get(global, args)).await?,
        Command::Describe(args) => get::describe(global, args).await?,
        Command::Create { what } => create::create(global, what).await?,
        Command::Update { what } => create::update(global, what).await?,
        Command::Apply(args) => apply::apply(global, args).await?,
        Command::Delete(args) => lifecycle::delete(global, args).await?,
        Command::Accept(args) => lifecycle::accept(global, args).await?,
        Command::Deploy(args) => return Box::pin(deploy::deploy(global, args)).await,
        Command::Wait(args) => return Box::pin(wait::run(global, args)).await,
        Command::Explain(args) => explain::explain(global, args).await?,
        Command::Simulate(args) => simulate::simulate(global, args).await?,
        Command::VerifyWipe(args) => wipes::verify_wipe(global, args).await?,
        Command::Health(args) => services::ask(&args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for people: what the API said, without the layers around it.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in error.chain() {
        match cause.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => texts.push(status.message.clone()),
            Some(other) => texts.push(connect::explain(other)),
            None => {
                texts.push(cause.to_string());
                continue;
            }
        }
        // What is behind it says the same in the words of a library.
        break;
    }
    let mut line = texts.first().cloned().unwrap_or_default();
    for text in texts.iter().skip(1) {
        if !line.contains(text.as_str()) {
            line = format!("{line}: {text}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_is_what_people_were_promised() {
        let mut text = String::new();
        fn walk(command: &mut clap::Command, text: &mut String) {
            if !command.is_hide_set() {
                let help = command.render_long_help();
                text.push_str(&format!("$ {} --help\n{help}\n", command.get_bin_name().unwrap_or_default()));
                for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
                    walk(sub, text);
                }
            }
        }
        let mut command = Cli::command();
        command.build();
        walk(&mut command, &mut text);
        insta::assert_snapshot!(text);
    }
}
