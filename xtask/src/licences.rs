//! Licences and origins of everything that is compiled in, held against `deny.toml`.
//!
//! This reads what Cargo knows and needs no other tool; where cargo-deny is installed it is asked as well, and
//! about advisories where its database is on this machine.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    command::{output, run, succeeds},
    workspace::Workspace,
};

/// Fails with each package whose licence, origin or name `deny.toml` does not allow.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let file = workspace.root().join("deny.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let lists = Lists { allowed: strings(&text, "allow"), banned: strings(&text, "deny") };
    let mut wrong = Vec::new();
    for manifest in ["Cargo.toml", "enforcer-ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
        wrong.extend(packages(workspace, manifest)?.iter().filter_map(|package| lists.objection(package)));
    }
    if !wrong.is_empty() {
        bail!("\n{}", wrong.join("\n"));
    }
    cargo_deny(workspace)
}

fn packages(workspace: &Workspace, manifest: &str) -> Result<Vec<Value>> {
    let platform = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut cargo = workspace.cargo(&["metadata", "--format-version", "1"]);
    cargo.args(["--filter-platform", &platform, "--manifest-path", manifest]);
    // That of the fuzz targets follows the other crates' by itself.
    if !manifest.starts_with("fuzz/") {
        cargo.arg("--locked");
    }
    let metadata: Value = serde_json::from_str(&output(&mut cargo)?)?;
    Ok(metadata["packages"].as_array().cloned().unwrap_or_default())
}

fn cargo_deny(workspace: &Workspace) -> Result<()> {
    if !succeeds(workspace.cargo(&["deny"]).arg("--version")) {
        return Ok(());
    }
    run(&mut workspace.cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    if home.is_some_and(|home| home.join("advisory-dbs").is_dir()) {
        return run(&mut workspace.cargo(&["deny", "--offline", "check", "advisories"]));
    }
    eprintln!("advisories are not checked: cargo-deny has no database here (`cargo deny fetch` gets it)");
    Ok(())
}

/// What `deny.toml` lists.
#[derive(Debug)]
struct Lists {
    allowed: Vec<String>,
    banned: Vec<String>,
}

impl Lists {
    fn objection(&self, package: &Value) -> Option<String> {
        let name = package["name"].as_str().unwrap_or_default();
        let said =
            |what: String| Some(format!("{name} {}: {what}", package["version"].as_str().unwrap_or("")));
        match package["source"].as_str() {
            None => {}
            Some(source) if source.starts_with("registry+") => {}
            Some(source) => return said(format!("comes from {source}; only the registry is used")),
        }
        if self.banned.iter().any(|banned| banned == name) {
            return said("is banned in deny.toml, which says why".into());
        }
        match package["license"].as_str() {
            Some(licence) if self.allows(licence) => None,
            Some(licence) => said(format!("licence {licence:?} is not allowed in deny.toml")),
            None => said("names no licence".into()),
        }
    }

    /// Judges an SPDX expression; `AND` binds closer than `OR`, and `/` is an old way to write `OR`.
    fn allows(&self, expression: &str) -> bool {
        let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        let allowed = self.any(&mut rest);
        allowed && rest.is_empty()
    }

    fn any(&self, words: &mut &[&str]) -> bool {
        let mut allowed = self.all(words);
        while take(words, "OR") {
            allowed |= self.all(words);
        }
        allowed
    }

    fn all(&self, words: &mut &[&str]) -> bool {
        let mut allowed = self.one(words);
        while take(words, "AND") {
            allowed &= self.one(words);
        }
        allowed
    }

    fn one(&self, words: &mut &[&str]) -> bool {
        if take(words, "(") {
            let allowed = self.any(words);
            return take(words, ")") && allowed;
        }
        let Some((first, rest)) = words.split_first() else { return false };
        *words = rest;
        let mut licence = (*first).to_owned();
        if take(words, "WITH")
            && let Some((exception, rest)) = words.split_first()
        {
            *words = rest;
            licence = format!("{licence} WITH {exception}");
        }
        self.allowed.contains(&licence)
    }
}

fn take(words: &mut &[&str], expected: &str) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    let found = *first == expected;
    if found {
        *words = rest;
    }
    found
}

/// The strings of `key = [ ... ]`; of an entry that is a table, its first string, which is the name.
fn strings(text: &str, key: &str) -> Vec<String> {
    let body = text.split_once(&format!("\n{key} = [")).map_or("", |(_, rest)| rest);
    let body = body.split_once("\n]").map_or(body, |(body, _)| body);
    let entries = body.lines().map(|line| line.split('#').next().unwrap_or_default());
    entries.filter_map(|entry| entry.split('"').nth(1)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> Lists {
        let text = "[licenses]\nallow = [\n  \"MIT\", # \"GPL-3.0\"\n  \"Apache-2.0\",\n  \"Apache-2.0 WITH LLVM-exception\",\n]\n\
                    [bans]\ndeny = [\n  { crate = \"openssl\", reason = \"one TLS stack\" },\n]\n";
        Lists { allowed: strings(text, "allow"), banned: strings(text, "deny") }
    }

    #[test]
    fn expressions_are_judged() {
        let lists = lists();
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR (MIT AND Apache-2.0)",
            "MIT/GPL-3.0",
            "Apache-2.0 WITH LLVM-exception OR X",
        ] {
            assert!(lists.allows(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT",
            "MIT GPL-3.0",
            "",
            "MIT WITH Odd-exception",
            "GPL-3.0 OR X AND MIT",
        ] {
            assert!(!lists.allows(bad), "{bad}");
        }
    }

    #[test]
    fn packages_are_objected_to() {
        let package = |name: &str, licence: &str, source: &str| serde_json::json!({"name": name, "version": "1.0.0", "license": licence, "source": source});
        let registry = "registry+https://registry.example";
        let objection = |name, licence, source| lists().objection(&package(name, licence, source));
        assert_eq!(objection("good", "MIT", registry), None);
        assert!(objection("openssl", "MIT", registry).unwrap().contains("banned"));
        assert!(objection("good", "MIT", "git+https://git.example").unwrap().contains("registry is used"));
        assert!(objection("good", "GPL-3.0", registry).unwrap().contains("not allowed"));
    }
}
