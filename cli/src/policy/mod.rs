//! `nameward policy`: files checked, tested, imported and reviewed without a machine that runs them; policies suggested
//! from what was seen.

pub(crate) mod args;
mod check;
mod diff;
mod import;
mod lint;
mod review;
mod suggest;
mod test;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use nameward_crds::{Mistakes, Policy, file};

use self::args::PolicyCommand;

/// What was checked is not in order.
const NO: u8 = 1;

/// Does one of the commands.
pub(crate) fn policy(command: &PolicyCommand) -> Result<ExitCode> {
    match command {
        PolicyCommand::Check(arguments) => check::check(arguments),
        PolicyCommand::Test(arguments) => test::test(arguments),
        PolicyCommand::Diff(arguments) => diff::diff(arguments),
        PolicyCommand::Import(arguments) => import::import(arguments),
        PolicyCommand::Suggest(arguments) => suggest::suggest(arguments),
        PolicyCommand::Review(arguments) => review::review(arguments),
    }
}

/// The policies of all files, and what their authors should know; or every mistake of all of them.
fn read_all(files: &[PathBuf]) -> Result<(Vec<Policy>, Vec<nameward_crds::Warning>), Mistakes> {
    let (mut policies, mut warnings, mut mistakes) = (Vec::new(), Vec::new(), Vec::new());
    for path in files {
        match file::load(path) {
            Ok(file) => {
                policies.extend(file.policies);
                warnings.extend(file.warnings);
            }
            Err(found) => mistakes.extend(found.0),
        }
    }
    if mistakes.is_empty() { Ok((policies, warnings)) } else { Err(Mistakes(mistakes)) }
}
