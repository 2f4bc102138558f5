//! Images of programs of this machine, as archives of the form of the Open Container Initiative that a container runtime
//! imports and a registry takes. No registry and no other tool is needed.
//!
//! A program goes to `/bin`, with the shared libraries that it is linked with and what their packages say of their
//! licences. The same files make the same archive, byte by byte: names are sorted, times are fixed, owners are root.

mod product;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

pub use self::product::{REGISTRY, RESOLVER_USER, product};
use crate::bounded::checked;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What keeps an archive of a folder from having in it when, where and by whom it was made.
const PLAIN: [&str; 6] =
    ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"];
/// Of packages whose libraries are copied.
const LICENCES: &str = "/usr/share/doc";

/// What an image is made of.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its name, with a tag; the archive is called as its last part.
    pub name: String,
    /// Programs, which go to `/bin` with the libraries that they need.
    pub programs: Vec<PathBuf>,
    /// What it always runs; arguments come from who starts it.
    pub entrypoint: Vec<String>,
    /// What it runs, or the entry point's arguments, unless told otherwise.
    pub command: Vec<String>,
    /// Number of the user it runs as; root unless said otherwise.
    pub user: Option<u32>,
    /// What stands in its labels.
    pub labels: Vec<(String, String)>,
    /// For tests: leave out what only debuggers read, which is most of a debug build, and compress little.
    pub quick: bool,
}

impl Image {
    /// Makes an archive in a folder, and returns its path.
    ///
    /// # Errors
    /// When a program is missing, or something cannot be written.
    pub fn archive(&self, folder: &Path) -> Result<PathBuf> {
        let name = self.name.rsplit('/').next().and_then(|last| last.split(':').next()).unwrap_or_default();
        let place = folder.join(format!(".{name}"));
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        let layout = place.join("layout");
        fs::create_dir_all(layout.join("blobs/sha256"))?;
        let root = self.root(&place.join("root"))?;
        let (layer, unpacked) = (place.join("layer.tar"), place.join("layer.tar.gz"));
        checked(Command::new("tar").arg("-C").arg(&root).args(PLAIN).arg("-cf").arg(&layer).arg("."))?;
        let content = format!("sha256:{}", digest(&layer)?);
        // Without the name and the time of the file.
        let effort = if self.quick { "-1" } else { "-9" };
        checked(Command::new("gzip").args(["--no-name", effort]).arg(&layer))?;
        let layer = blob_of_file(&layout, &unpacked)?;
        let config = blob(&layout, &self.config(&content))?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        });
        let mut manifest = descriptor(MANIFEST, &blob(&layout, &manifest)?);
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        manifest["annotations"] =
            json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
        fs::write(layout.join("index.json"), index.to_string())?;
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let archive = folder.join(format!("{name}.tar"));
        checked(Command::new("tar").arg("-C").arg(&layout).args(PLAIN).arg("-cf").arg(&archive).arg("."))?;
        fs::remove_dir_all(place)?;
        Ok(archive)
    }

    /// The files of the image.
    fn root(&self, root: &Path) -> Result<PathBuf> {
        for folder in ["bin", "tmp", "etc", "proc", "sys", "dev", "run", "var"] {
            fs::create_dir_all(root.join(folder))?;
            fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o755))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        // What container runtimes say of network namespaces begins with it.
        symlink("../run", root.join("var/run"))?;
        let mut users = "root:x:0:0:root:/:/bin/sh\n".to_owned();
        if let Some(user) = self.user {
            users += &format!("nonroot:x:{user}:{user}:nonroot:/:/bin/false\n");
        }
        fs::write(root.join("etc/passwd"), users)?;
        self.programs.iter().try_for_each(|program| put(root, program, self.quick))?;
        Ok(root.to_path_buf())
    }

    fn config(&self, layer: &str) -> Value {
        let labels: Map<String, Value> =
            self.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let mut config = json!({"Env": ["PATH=/bin"], "WorkingDir": "/"});
        if !self.entrypoint.is_empty() {
            config["Entrypoint"] = self.entrypoint.clone().into();
        }
        if !self.command.is_empty() {
            config["Cmd"] = self.command.clone().into();
        }
        if let Some(user) = self.user {
            config["User"] = format!("{user}:{user}").into();
        }
        if !labels.is_empty() {
            config["Labels"] = labels.into();
        }
        let rootfs = json!({"type": "layers", "diff_ids": [layer]});
        json!({"architecture": architecture(), "os": "linux", "config": config, "rootfs": rootfs})
    }
}

/// As images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
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
    let (digest, size) = (digest(file)?, fs::metadata(file)?.len());
    fs::rename(file, layout.join("blobs/sha256").join(&digest))?;
    Ok((format!("sha256:{digest}"), size))
}

fn digest(file: &Path) -> Result<String> {
    let said = checked(Command::new("sha256sum").arg(file))?;
    Ok(said.split(' ').next().context("sha256sum says nothing")?.trim_start_matches('\\').to_owned())
}

/// A program in `/bin`, and the libraries that it is linked with where it looks for them.
fn put(root: &Path, program: &Path, strip: bool) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let target = root.join("bin").join(name);
    fs::copy(program, &target).with_context(|| program.display().to_string())?;
    if strip {
        checked(Command::new("strip").arg("--strip-debug").arg(&target))?;
    }
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    // Fails for what is linked statically, which needs nothing.
    let needed = checked(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in needed.split_whitespace().filter(|word| word.starts_with('/')) {
        checked(Command::new("cp").args(["--dereference", "--parents", library]).arg(root))?;
        put_licence(root, Path::new(library))?;
    }
    if name == "busybox" {
        let applets = checked(Command::new(program).arg("--list"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", root.join("bin").join(applet)).or_else(|error| {
                if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
            })?;
        }
    }
    Ok(())
}

/// What the package of a library says of its licence, where this machine has packages as Debian has.
fn put_licence(root: &Path, library: &Path) -> Result<()> {
    // dpkg may know the file by the path before /lib became a link to /usr/lib.
    let real = library.canonicalize()?;
    let older = real.strip_prefix("/usr").map(|path| Path::new("/").join(path)).ok();
    let owner = [Some(real), older].into_iter().flatten().find_map(|path| {
        let said = checked(Command::new("dpkg-query").arg("--search").arg(path)).ok()?;
        Some(said.split([':', ',']).next()?.to_owned())
    });
    let Some(file) = owner.map(|package| Path::new(LICENCES).join(package).join("copyright")) else {
        return Ok(());
    };
    if file.exists() {
        checked(Command::new("cp").args(["--dereference", "--parents"]).arg(&file).arg(root))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    #[test]
    fn the_same_files_make_the_same_archive() {
        let folder = Scratch::new("images").unwrap();
        let image = Image {
            name: "registry.test/some/thing:1".into(),
            programs: vec!["/bin/true".into()],
            user: Some(65_532),
            labels: vec![("a".into(), "b".into())],
            ..Image::default()
        };
        let archive = image.archive(folder.path()).unwrap();
        assert_eq!(archive, folder.path().join("thing.tar"));
        let first = fs::read(&archive).unwrap();
        // A time that differs by more than what file systems round.
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        image.archive(folder.path()).unwrap();
        assert!(fs::read(&archive).unwrap() == first, "the second archive differs");
        let list = checked(Command::new("tar").arg("-tf").arg(&archive)).unwrap();
        assert!(list.contains("./oci-layout") && list.contains("./index.json"), "{list}");
    }
}
