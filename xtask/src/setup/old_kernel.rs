//! The oldest kernel that is supported, for a test that boots it: Debian 12's own, from its package, in the cache.
//!
//! The package is unpacked, not installed: nothing of this machine's boot changes. Only the modules of file systems
//! and networking are kept. `nameward_test_support::OldKernel` boots what is here.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{is_root, packages};
use crate::{
    command::{output, run},
    workspace::cache,
};

/// The package that depends on the kernel's own.
const PACKAGE: &str = "linux-image-amd64";
/// Its last number counts up with every change of what is made here.
const FOLDER: &str = "linux-6.1-2";
/// What the first program of the virtual machine needs to find its file systems.
const BOOT_MODULES: [&str; 4] = ["virtio_pci", "9p", "9pnet_virtio", "overlay"];
/// Folders of modules that tests may need.
const MODULES: [&str; 9] = [
    "arch",
    "crypto",
    "drivers/net",
    "drivers/virtio",
    "fs/9p",
    "fs/fscache",
    "fs/netfs",
    "fs/overlayfs",
    "net",
];
const INIT: &str = include_str!("old_kernel_init.sh");

/// Unpacks the kernel unless it is there. Needs root, as the test that boots it.
pub(super) fn prepare() -> Result<()> {
    let kernels = cache()?.join("kernels");
    let folder = kernels.join(FOLDER);
    if !is_root() || folder.join("initrd.gz").is_file() {
        return Ok(());
    }
    fs::create_dir_all(&kernels)?;
    let lock = File::create(kernels.join(format!(".lock-{FOLDER}")))?;
    lock.lock().context("cannot lock the kernels' folder")?;
    if folder.join("initrd.gz").is_file() {
        return Ok(());
    }
    if packages::find_command("apt-get").is_none() {
        bail!(
            "a kernel 6.1 is needed in {}: vmlinuz, lib/modules and initrd.gz as made on Debian 12; `--skip old_kernel` \
             leaves its test out",
            folder.display()
        );
    }
    eprintln!("unpacking Debian's kernel 6.1, on which a test boots a virtual machine (70 MB, once)");
    let half_made = kernels.join(format!(".making-{FOLDER}"));
    for leftover in [&half_made, &folder] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).with_context(|| format!("cannot remove {}", leftover.display()))?;
        }
    }
    fs::create_dir_all(&half_made)?;
    make(&half_made)?;
    fs::rename(&half_made, &folder).with_context(|| format!("cannot put {} in place", folder.display()))
}

fn make(folder: &Path) -> Result<()> {
    let release = unpack(folder)?;
    let base = folder.to_str().context("the cache's path is not UTF-8")?;
    run(Command::new("depmod").args(["-b", base, &release]))?;
    initrd(folder, base, &release)
}

/// Leaves `vmlinuz` and `lib/modules`; returns the kernel's release.
fn unpack(folder: &Path) -> Result<String> {
    let mut release = String::new();
    packages::with_fresh_lists(&mut || {
        release = current_release()?;
        let mut download = Command::new("apt-get");
        download.args(["download", "--quiet", &format!("linux-image-{release}")]).current_dir(folder);
        run(&mut download)
    })?;
    let archive = find(folder, ".deb")?;
    let whole = folder.join("whole");
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&whole))?;
    fs::rename(whole.join("boot").join(format!("vmlinuz-{release}")), folder.join("vmlinuz"))?;
    let (from, to) = (whole.join("lib/modules").join(&release), folder.join("lib/modules").join(&release));
    for part in MODULES {
        let (from, to) = (from.join("kernel").join(part), to.join("kernel").join(part));
        fs::create_dir_all(to.parent().context("a module's folder")?)?;
        fs::rename(&from, &to).with_context(|| format!("the package has no {part}"))?;
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::rename(from.join(list), to.join(list)).with_context(|| format!("the package has no {list}"))?;
    }
    fs::write(folder.join("release"), &release)?;
    fs::remove_file(archive)?;
    fs::remove_dir_all(whole)?;
    Ok(release)
}

/// Of the kernel that the package lists name.
fn current_release() -> Result<String> {
    let depends = output(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    Ok(package.with_context(|| format!("{PACKAGE} is not known to apt"))?.to_owned())
}

fn find(folder: &Path, suffix: &str) -> Result<std::path::PathBuf> {
    let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut found = entries.filter(|path| path.to_string_lossy().ends_with(suffix));
    found.next().with_context(|| format!("no {suffix} file was downloaded"))
}

/// An archive with the modules to reach the machine's file systems, in order, and a first program.
fn initrd(folder: &Path, base: &str, release: &str) -> Result<()> {
    let root = folder.join("initrd");
    for name in ["bin", "dev", "job", "lower", "modules", "new", "proc", "rw", "sys"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = packages::find_command("busybox").context("busybox is missing")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    let mut needed: Vec<String> = Vec::new();
    for module in BOOT_MODULES {
        let list =
            output(Command::new("modprobe").args(["-d", base, "-S", release, "--show-depends", module]))?;
        let paths = list.lines().filter_map(|line| line.strip_prefix("insmod "));
        for path in paths.map(|path| path.trim().to_owned()) {
            if !needed.contains(&path) {
                needed.push(path);
            }
        }
    }
    for (number, path) in needed.iter().enumerate() {
        fs::copy(path, root.join(format!("modules/{number:03}.ko")))?;
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    run(Command::new("chmod").arg("755").arg(&init))?;
    pack(&root, &folder.join("initrd.gz"))?;
    fs::remove_dir_all(root)?;
    Ok(())
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let mut pack = Command::new("busybox");
    pack.args(["sh", "-c", "find . | busybox cpio -o -H newc | gzip -1"])
        .current_dir(root)
        .stderr(Stdio::null());
    let packed = pack.output().context("cannot start busybox")?;
    if !packed.status.success() || packed.stdout.is_empty() {
        bail!("the archive for the virtual machine cannot be made");
    }
    File::create(archive)?.write_all(&packed.stdout)?;
    Ok(())
}
