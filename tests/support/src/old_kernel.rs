//! The oldest supported kernel in a virtual machine, with this machine's files below it, written to memory only.
//!
//! `cargo xtask setup` unpacks the kernel. The processor is emulated: hosts that are virtual machines themselves
//! often cannot lend theirs. So everything is slower by ten times and more, and only what depends on the kernel
//! belongs here.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{Daemon, Scratch, cache::cache};

const MEMORY: &str = "2048";

/// A kernel that can be booted.
#[derive(Debug)]
pub struct OldKernel {
    folder: PathBuf,
    release: String,
}

/// What a machine said, and how its script ended.
#[derive(Debug)]
pub struct Booted {
    /// Both outputs of the script.
    pub output: String,
    /// Its exit status.
    pub status: i32,
}

impl OldKernel {
    /// The one that `NAMEWARD_OLD_KERNEL` names, else the cache's.
    pub fn find() -> Result<Self> {
        let folder = match env::var_os("NAMEWARD_OLD_KERNEL") {
            Some(folder) => PathBuf::from(folder),
            None => cache()?.join("kernels/linux-6.1-2"),
        };
        let release = fs::read_to_string(folder.join("release"))
            .with_context(|| format!("{} holds no kernel; run `cargo xtask setup`", folder.display()))?;
        Ok(Self { folder, release })
    }

    /// Its release, as `uname -r` says it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Boots it, runs a shell script as root in this machine's files, and switches it off.
    pub fn run(&self, script: &str, deadline: Duration) -> Result<Booted> {
        let job = Scratch::new("vm")?;
        job.file("start", &self.start())?;
        job.file("script", script)?;
        let log = job.path().join("console");
        let status = job.path().join("status");
        let mut machine = Daemon::start("qemu", &mut self.machine(job.path()), &log)?;
        let mut ended = false;
        let waited = machine.wait(deadline, || {
            ended = status.exists();
            ended
        });
        let output = fs::read_to_string(job.path().join("output")).unwrap_or_default();
        if !ended {
            bail!(
                "the virtual machine did not end its script: {:#}\n{output}",
                waited.err().context("no cause")?
            );
        }
        let status = fs::read_to_string(status)?.trim().parse().context("the script's status")?;
        Ok(Booted { output, status })
    }

    /// What runs before the script, and after it.
    fn start(&self) -> String {
        let modules = self.folder.join("lib/modules").join(&self.release);
        format!(
            "mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys\n\
             mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts\n\
             mkdir -p /lib/modules; ln -s {modules} /lib/modules/{release}\n\
             mount -t bpf bpf /sys/fs/bpf; mount -t cgroup2 cgroup /sys/fs/cgroup\n\
             export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
             ip link set lo up\n\
             sh /run/job/script >/run/job/output 2>&1 </dev/null\n\
             echo $? >/run/job/status.new; mv /run/job/status.new /run/job/status; sync\n\
             echo o >/proc/sysrq-trigger; while :; do sleep 1; done\n",
            modules = modules.display(),
            release = self.release,
        )
    }

    fn machine(&self, job: &Path) -> Command {
        let share = |path: &Path, tag: &str, more: &str| {
            let path = path.display();
            format!("local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}")
        };
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        qemu.arg("-kernel").arg(self.folder.join("vmlinuz"));
        qemu.arg("-initrd").arg(self.folder.join("initrd.gz"));
        qemu.args(["-append", "console=ttyS0 quiet panic=-1"]);
        qemu.args(["-virtfs", &share(Path::new("/"), "root", ",readonly=on")]);
        qemu.args(["-virtfs", &share(job, "job", "")]);
        qemu
    }
}
