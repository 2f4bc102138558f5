//! Makes images of Nameward's programs: `cargo xtask images`, which builds them first.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use nameward_test_support::images::{REGISTRY, product};

/// Images of Nameward's programs, as archives of the Open Container Initiative.
#[derive(Debug, Parser)]
struct Args {
    /// Where the programs are
    programs: PathBuf,
    /// Where the archives go
    folder: PathBuf,
    /// What the images' names begin with
    #[arg(long, value_name = "NAME", default_value = REGISTRY)]
    registry: String,
    /// The images' tag
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Leave out what only debuggers read, and compress little
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    match make(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make(args: &Args) -> Result<()> {
    fs::create_dir_all(&args.folder).with_context(|| format!("cannot make {}", args.folder.display()))?;
    for image in product(&args.programs, &args.registry, &args.tag, args.quick) {
        let archive = image.archive(&args.folder)?;
        let size = fs::metadata(&archive)?.len() / 1_000_000;
        println!("{}  {}  {size} MB", archive.display(), image.name);
    }
    Ok(())
}
