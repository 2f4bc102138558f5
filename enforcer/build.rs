//! Builds the kernel programs and leaves the object in `OUT_DIR`, where `kernel::object` embeds it.
//!
//! They are another target with another `core`, so this calls cargo once more: with its own target folder,
//! because the outer cargo holds the lock of the usual one.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The version that `cargo xtask setup` installs.
const LINKER: &str = "bpf-linker-0.13.0";
const TARGET: &str = "bpfel-unknown-none";

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().ok_or("this crate is not inside the workspace")?;
    let crate_dir = workspace.join("enforcer-ebpf");
    for path in ["src", "Cargo.toml", "Cargo.lock", "../enforcer-abi/src", "../enforcer-abi/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", crate_dir.join(path).display());
    }
    for name in ["NAMEWARD_BPF_LINKER", "NAMEWARD_CACHE", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");

    let linker = find_linker()?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = target_folder(&out).join("ebpf");
    build(&crate_dir, &target_dir, &linker)?;
    fs::copy(target_dir.join(TARGET).join("release/nameward"), out.join("nameward.bpf.o"))?;
    Ok(())
}

fn build(crate_dir: &Path, target_dir: &Path, linker: &Path) -> Result<(), Box<dyn Error>> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        format!("-Clinker={}", linker.display()),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // Otherwise each copy or clearing of a structure is a loop over its octets: half of what a packet cost.
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
        format!("--cfg=bpf_target_arch=\"{}\"", arch.to_string_lossy()),
    ]
    .join("\x1f");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(crate_dir).args([
        "build",
        "--release",
        "--locked",
        "-Zbuild-std=core",
        "--target",
        TARGET,
    ]);
    cargo.arg("--target-dir").arg(target_dir);
    // Flags, wrappers (clippy) and targets of the host's build are not meant for this one.
    for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_host_build(name)) {
        cargo.env_remove(name);
    }
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flags);
    let output =
        cargo.output().map_err(|error| format!("cannot start cargo for the kernel programs: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    Err("cannot build the kernel programs, see above; if rust-src or bpf-linker is missing, run `cargo xtask setup`"
        .into())
}

fn belongs_to_host_build(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    let wrappers =
        ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTDOCFLAGS", "RUSTDOC"];
    let settings = ["CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_MAKEFLAGS", "MAKEFLAGS"];
    wrappers.contains(&&*name)
        || settings.contains(&&*name)
        || ["CARGO_BUILD_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PROFILE_", "CARGO_PKG_", "CARGO_TARGET_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// `$NAMEWARD_BPF_LINKER`, the cache that `cargo xtask setup` fills, `PATH`.
fn find_linker() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("NAMEWARD_BPF_LINKER") {
        let path = PathBuf::from(path);
        return path.is_file().then_some(path.clone()).ok_or_else(|| {
            format!(
                "NAMEWARD_BPF_LINKER names {}, which is not a file; unset it or correct it",
                path.display()
            )
        });
    }
    let cached = cache_folder().map(|cache| cache.join("tools").join(LINKER).join("bin/bpf-linker"));
    if let Some(path) = cached.filter(|path| path.is_file()) {
        return Ok(path);
    }
    // Asked for only now: `cargo xtask test` runs some levels with another one, which is no reason to build anew.
    println!("cargo::rerun-if-env-changed=PATH");
    let search = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&search)
        .map(|folder| folder.join("bpf-linker"))
        .find(|path| path.is_file())
        .ok_or_else(|| "bpf-linker is not installed; run `cargo xtask setup`, which builds it".into())
}

fn cache_folder() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("NAMEWARD_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("nameward")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/nameward")))
}

/// The target folder that `out` lies in: cargo marks it with a CACHEDIR.TAG.
fn target_folder(out: &Path) -> PathBuf {
    let marked = out.ancestors().find(|path| path.join("CACHEDIR.TAG").is_file());
    marked.or_else(|| out.ancestors().nth(4)).unwrap_or(out).to_path_buf()
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set; this program is run by cargo"))
}
