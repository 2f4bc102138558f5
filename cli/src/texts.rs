//! Texts made from the command line's description: usage errors, completions, the manual page.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::OWN_FAILURE;
use crate::args::Arguments;

/// Prints what clap has to say: help and version are no failures, everything else is ours (SEMANTICS X3).
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(OWN_FAILURE),
        };
    }
    let text = error.render().to_string();
    eprint!("nameward: {}", text.strip_prefix("error: ").unwrap_or(&text));
    ExitCode::from(OWN_FAILURE)
}

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "nameward", &mut text);
    print(&text)
}

/// Prints the manual page: the command's own, and a section for each subcommand.
pub(crate) fn man() -> Result<ExitCode> {
    let mut command = Arguments::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text).context("cannot write the manual page")?;
    for each in leaves(&command) {
        let page = clap_mangen::Man::new(each.clone());
        page.render_synopsis_section(&mut text)?;
        page.render_description_section(&mut text)?;
        page.render_options_section(&mut text)?;
        page.render_extra_section(&mut text)?;
    }
    print(&text)
}

/// The commands that do something, in their order.
fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
    let mut all = Vec::new();
    for each in command.get_subcommands().filter(|each| each.get_name() != "help") {
        if each.has_subcommands() {
            all.extend(leaves(each));
        } else if each.get_arguments().next().is_some() {
            all.push(each);
        }
    }
    all
}

fn print(text: &[u8]) -> Result<ExitCode> {
    match io::stdout().write_all(text) {
        // `nameward man | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => other.context("cannot write to standard output").map(|()| ExitCode::SUCCESS),
    }
}
