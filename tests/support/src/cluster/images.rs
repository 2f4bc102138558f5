//! The images of a test cluster: its pods are made of programs of this machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::tool;
use crate::images::Image;

/// What the image of a pod's sandbox is called.
pub(super) const PAUSE: &str = "nameward.test/pause:1";

/// Name, programs, and what it runs.
type Described = (&'static str, &'static [&'static str], &'static [&'static str]);

const SLEEPS: &[&str] = &["/bin/busybox", "sleep", "2147483647"];
const IMAGES: [Described; 3] = [
    (PAUSE, &["busybox"], SLEEPS),
    ("nameward.test/tools:1", &["busybox", "curl"], SLEEPS),
    ("nameward.test/coredns:1", &["coredns"], &["/bin/coredns"]),
];

/// Makes the archives of all images in a folder.
pub(super) fn build(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder)?;
    IMAGES
        .iter()
        .map(|(name, programs, command)| describe(name, programs, command)?.archive(folder))
        .collect()
}

fn describe(name: &str, programs: &[&str], command: &[&str]) -> Result<Image> {
    Ok(Image {
        name: name.to_owned(),
        programs: programs.iter().map(|program| tool(program)).collect::<Result<_>>()?,
        command: command.iter().map(ToString::to_string).collect(),
        quick: true,
        ..Image::default()
    })
}
