//! The command line. Owns its words and their help; what they mean is in [`crate::rules`] and [`crate::run`].

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use nameward_api::serve::ApiPlace;

use crate::{audit::AuditCommand, break_glass, check, policy::args::PolicyCommand, rules, see};

/// An egress firewall that knows names.
#[derive(Debug, Parser)]
#[command(name = "nameward", version, max_term_width = 110)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `nameward` does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command that may open connections only to what you allow
    Run(Box<Run>),
    Endpoints(see::args::Endpoints),
    Bindings(see::args::Bindings),
    Flush(see::args::Flush),
    Explain(see::args::Explain),
    Watch(see::args::Watch),
    Traffic(see::args::Traffic),
    Policies(see::args::Policies),
    /// Check, test, import, suggest and review policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    BreakGlass(break_glass::args::BreakGlass),
    /// Look after an audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Check what stands around Nameward, and say what to write
    #[command(subcommand)]
    Check(check::Check),
    /// Print a completion script for a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff: `nameward man | man -l -`
    Man,
}

/// Reads a command line. Called `kubectl-nameward`, it is a plugin of kubectl, and says so in its help.
pub(crate) fn read(words: impl Iterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let words: Vec<OsString> = words.collect();
    let called = words.first().map(Path::new).and_then(Path::file_name);
    let mut command = Arguments::command();
    if called.is_some_and(|name| name == "kubectl-nameward") {
        command = command.bin_name("kubectl nameward");
    }
    let mut matches = command.try_get_matches_from(words)?;
    Arguments::from_arg_matches_mut(&mut matches)
}

const RUN_ABOUT: &str = "\
Run a command that may open connections only to what you allow

The command and everything it starts may look up and reach the names given with --allow, the addresses given with \
--allow-cidr and what a policy file allows. Everything else is refused at once, in every protocol, and said on \
stderr with the flag that would allow it. Needs root; under sudo the command runs as you, without privileges.";

const RUN_EXAMPLES: &str = "\
Examples:
  sudo nameward run --allow registry.npmjs.org:443 -- npm ci
  sudo nameward run --allow '*.pypi.org' --allow files.pythonhosted.org:443/tcp -- pip install -r requirements.txt
  sudo nameward run --allow-cidr 198.51.100.0/24:8000-8999 --allow-cidr '[2001:db8::1]:443' -- ./job
  sudo nameward run --allow db.corp.example:5432 --allow-private db.corp.example -- ./migrate
  sudo nameward run --audit --learn job.yaml -- ./job     # deny nothing, write down what it wanted
  sudo nameward run --policy job.yaml -- ./job            # and now only that

Rules:
  NAME is a domain name, or *.NAME for every name below it (not NAME itself). Without a port a rule means every TCP \
  and UDP port; without /tcp or /udp a port means both. A NAME that the hosts file has is taken from there, a pattern is \
  not. Answers with private addresses are removed unless --allow-private or --allow-cidr covers them. Listeners of this \
  machine need --allow-cidr 127.0.0.1:PORT; what the command starts itself can be reached.

Outside of the fence:
  Files and UNIX sockets. Whoever may write your shell's start files, or speak to the Docker, D-Bus or SSH agent \
  socket, can have programs run elsewhere: narrow that with --private-home and --hide. At a terminal the command may \
  signal who is in the same process group. Inside there are no user namespaces, so programs that bring a sandbox of \
  their own (browsers, bubblewrap) must run without it.

Exit status:
  The command's own; 125 when nameward failed, 126 when the command cannot be executed, 127 when it was not found, \
  128+N when signal N ended it. A first SIGINT or SIGTERM is passed on, a second one kills all that is left.";

/// Arguments of `nameward run`.
#[derive(Debug, Args)]
#[command(about = "Run a command that may open connections only to what you allow", long_about = RUN_ABOUT)]
#[command(after_help = "Try --help for examples.", after_long_help = RUN_EXAMPLES)]
pub(crate) struct Run {
    /// Allow a name, or *.NAME for all below it
    #[arg(long, value_name = "NAME[:PORT[-PORT]][/tcp|/udp]", value_parser = rules::name_rule)]
    pub(crate) allow: Vec<rules::NameRule>,

    /// Allow private addresses in the answers of a name that another rule allows
    #[arg(long, value_name = "NAME", value_parser = rules::pattern)]
    pub(crate) allow_private: Vec<nameward_policy::Pattern>,

    /// Allow an address or a range of addresses; PROTO is tcp, udp, sctp, icmp, any or a number
    #[arg(long, value_name = "CIDR[:PORT[-PORT]][/PROTO]", value_parser = rules::cidr_rule)]
    pub(crate) allow_cidr: Vec<rules::CidrRule>,

    /// Apply every policy of a file (EgressPolicy objects; selectors are ignored)
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Vec<PathBuf>,

    /// Deny nothing, say what would have been denied
    #[arg(long)]
    pub(crate) audit: bool,

    /// Write a policy file of what the command asked for
    #[arg(long, value_name = "FILE")]
    pub(crate) learn: Option<PathBuf>,

    /// Ask this DNS server instead of the system's
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = rules::dns_server)]
    pub(crate) dns: Option<SocketAddr>,

    /// Serve endpoints, bindings, decisions and explanations over HTTP while the command runs, on a socket that only root
    /// may open or on a loopback address that asks for a token
    #[arg(long, value_name = "unix:PATH | ADDR:PORT")]
    pub(crate) api: Option<ApiPlace>,

    /// The token that clients of an address show (`Authorization: Bearer TOKEN`); made where there is no such file
    #[arg(long, value_name = "FILE", requires = "api")]
    pub(crate) api_token_file: Option<PathBuf>,

    /// How denials are written to stderr
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log: LogFormat,

    /// Run as this user instead of the one who called sudo
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,

    /// Give the command an empty home folder; the current folder is kept
    #[arg(long)]
    pub(crate) private_home: bool,

    /// Hide a file, a socket or a folder from the command
    #[arg(long, value_name = "PATH")]
    pub(crate) hide: Vec<PathBuf>,

    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Format of what goes to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Sentences
    Text,
    /// One JSON object a line
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(called: &str, words: &[&str]) -> String {
        let words = std::iter::once(called).chain(words.iter().copied()).map(OsString::from);
        read(words).unwrap_err().to_string()
    }

    #[test]
    fn a_plugin_of_kubectl_says_so() {
        Arguments::command().debug_assert();
        let said = help("/usr/local/bin/kubectl-nameward", &["bindings", "--help"]);
        assert!(said.contains("Usage: kubectl nameward bindings"), "{said}");
        assert!(help("nameward", &["bindings", "--help"]).contains("Usage: nameward bindings"));
    }

    #[test]
    fn every_command_that_asks_shows_how() {
        for command in [
            "endpoints",
            "bindings",
            "flush",
            "explain",
            "watch",
            "break-glass",
            "policy check",
            "policy test",
            "policy diff",
            "policy import",
            "policy suggest",
        ] {
            let mut words: Vec<&str> = command.split(' ').collect();
            words.push("--help");
            assert!(help("nameward", &words).contains("Examples:"), "{command}");
        }
    }
}
