//! Images of the programs, made by a program of the `nameward-tests` package.

use anyhow::Result;

use crate::{build, command::run, workspace::Workspace};

/// What is made, and how it is called.
#[derive(Debug, clap::Args)]
pub(crate) struct Words {
    /// Of programs that are built quickly and without optimisation
    #[arg(long)]
    dev: bool,
    /// What the images' names begin with [default: localhost/nameward]
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    /// The images' tag [default: the version]
    #[arg(long)]
    tag: Option<String>,
}

/// Builds the programs and leaves the archives in `target/images`.
pub(crate) fn images(workspace: &Workspace, words: &Words) -> Result<()> {
    build::programs(workspace, words.dev)?;
    let mut maker =
        workspace.cargo(&["run", "--quiet", "--locked", "--package", "nameward-tests", "--bin", "images"]);
    maker.arg("--").arg(workspace.target().join(if words.dev { "debug" } else { "release" }));
    maker.arg(workspace.target().join("images"));
    for (flag, value) in [("--registry", &words.registry), ("--tag", &words.tag)] {
        if let Some(value) = value {
            maker.args([flag, value]);
        }
    }
    if words.dev {
        maker.arg("--quick");
    }
    run(&mut maker)
}
