//! Images of programs of this machine, as archives that a container runtime imports. No registry is needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{machine::checked, tool};

/// What the image of a pod's sandbox is called.
pub(super) const PAUSE: &str = "nameward.test/pause:1";

/// An image: its name, the programs in it, and the command it runs.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its name, with a tag.
    pub name: &'static str,
    /// Programs of this machine, which go to `/bin` with the libraries that they need.
    pub programs: &'static [&'static str],
    /// What it runs.
    pub command: &'static [&'static str],
}

/// Every image of a test cluster.
const IMAGES: [Image; 3] = [
    Image { name: PAUSE, programs: &["busybox"], command: &["/bin/busybox", "sleep", "2147483647"] },
    Image {
        name: "nameward.test/tools:1",
        programs: &["busybox", "curl"],
        command: &["/bin/busybox", "sleep", "2147483647"],
    },
    Image { name: "nameward.test/coredns:1", programs: &["coredns"], command: &["/bin/coredns"] },
];

/// Makes the archives of all images in a folder.
pub(super) fn build(folder: &Path) -> Result<Vec<PathBuf>> {
    IMAGES.iter().map(|image| image.archive(folder)).collect()
}

impl Image {
    /// Makes an archive of the form of the Open Container Initiative, and returns its path.
    ///
    /// # Errors
    /// When a program is missing, or something cannot be written.
    pub fn archive(&self, folder: &Path) -> Result<PathBuf> {
        let name = self.name.split(['/', ':']).nth(1).context("an image has a name and a tag")?;
        let place = folder.join(name);
        let (root, layout) = (place.join("root"), place.join("layout"));
        fs::create_dir_all(layout.join("blobs/sha256"))?;
        for folder in ["bin", "tmp", "etc", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        self.programs.iter().try_for_each(|program| put(&root, program))?;
        let layer = place.join("layer.tar");
        let owner = ["--owner=0", "--group=0", "--numeric-owner", "-cf"];
        checked(Command::new("tar").arg("-C").arg(&root).args(owner).arg(&layer).arg("."))?;
        let layer = blob_of_file(&layout, &layer)?;
        let config = blob(&layout, &self.config(&layer))?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let mut manifest =
            descriptor("application/vnd.oci.image.manifest.v1+json", &blob(&layout, &manifest)?);
        manifest["annotations"] = json!({"io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(layout.join("index.json"), index.to_string())?;
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let archive = folder.join(format!("{name}.tar"));
        checked(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).arg("."))?;
        fs::remove_dir_all(place)?;
        Ok(archive)
    }

    fn config(&self, (digest, _): &Blob) -> Value {
        json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": self.command, "Env": ["PATH=/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        })
    }
}

/// Digest and length.
type Blob = (String, u64);

fn descriptor(kind: &str, (digest, size): &Blob) -> Value {
    json!({"mediaType": kind, "digest": digest, "size": size})
}

fn blob(layout: &Path, content: &Value) -> Result<Blob> {
    let file = layout.join("content");
    fs::write(&file, content.to_string())?;
    blob_of_file(layout, &file)
}

fn blob_of_file(layout: &Path, file: &Path) -> Result<Blob> {
    let said = checked(Command::new("sha256sum").arg(file))?;
    let digest =
        said.split(' ').next().context("sha256sum says nothing")?.trim_start_matches('\\').to_owned();
    let size = fs::metadata(file)?.len();
    fs::rename(file, layout.join("blobs/sha256").join(&digest))?;
    Ok((format!("sha256:{digest}"), size))
}

/// A program in `/bin`, and the libraries that it is linked with where it looks for them.
fn put(root: &Path, name: &str) -> Result<()> {
    let program = tool(name)?;
    fs::copy(&program, root.join("bin").join(name)).with_context(|| program.display().to_string())?;
    // Fails for what is linked statically, which needs nothing.
    let needed = checked(Command::new("ldd").arg(&program)).unwrap_or_default();
    for library in needed.split_whitespace().filter(|word| word.starts_with('/')) {
        checked(Command::new("cp").args(["--dereference", "--parents", library]).arg(root))?;
    }
    if name == "busybox" {
        let applets = checked(Command::new(&program).arg("--list"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).or_else(|error| {
                if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
            })?;
        }
    }
    Ok(())
}
