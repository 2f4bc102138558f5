//! Writes what the chart has from elsewhere in the tree: definitions of objects, rights, warnings. With `--check`, fails
//! when the files differ.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};

const HOW: &str = "cargo run -p nameward-tests --bin chartgen";
/// Where the chart is, in the tree.
const CHART: &str = "helm/nameward";
/// The namespace in `deploy/rbac.yaml`.
const NAMESPACE: &str = "namespace: nameward";
const LABELS: &str = "    {{- include \"nameward.labels\" . | nindent 4 }}\n";

fn main() -> ExitCode {
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    match perform(check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chartgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = files(&root)?;
    for (name, text) in &files {
        let file = root.join(CHART).join(name);
        if !check {
            fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
            fs::write(&file, text).with_context(|| file.display().to_string())?;
        } else if fs::read_to_string(&file).ok().as_ref() != Some(text) {
            bail!("{CHART}/{name} differs; run `{HOW}` and commit what it writes");
        }
    }
    for entry in fs::read_dir(root.join(CHART).join("files/crds"))?.flatten() {
        let name = format!("files/crds/{}", entry.file_name().to_string_lossy());
        ensure!(files.contains_key(&name), "{CHART}/{name} belongs to no object any more: remove it");
    }
    let chart = fs::read_to_string(root.join(CHART).join("Chart.yaml"))?;
    for field in ["version", "appVersion"] {
        let line = format!("\n{field}: {}\n", env!("CARGO_PKG_VERSION"));
        ensure!(chart.contains(&line), "{CHART}/Chart.yaml: write `{}`", line.trim());
    }
    Ok(())
}

/// Each generated file of the chart, by its path in it.
fn files(root: &Path) -> Result<BTreeMap<String, String>> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(root.join("crds/generated"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(format!("files/crds/{name}"), kept(&read(&path)?)?);
    }
    let warnings = read(&root.join("deploy/admission-policy.yaml"))?;
    files.insert("files/admission-policy.yaml".into(), warnings);
    files.insert("templates/rbac.yaml".into(), rights(&read(&root.join("deploy/rbac.yaml"))?)?);
    Ok(files)
}

/// A definition that stays when the chart is uninstalled, and its objects with it.
fn kept(definition: &str) -> Result<String> {
    let head = "\nmetadata:\n";
    let at = definition.find(head).context("a definition without metadata")? + head.len();
    let (before, after) = definition.split_at(at);
    Ok(format!("{before}  annotations:\n    helm.sh/resource-policy: keep\n{after}"))
}

/// The rights as a template: in the namespace of the release, which is Helm's to make, and with its labels.
fn rights(text: &str) -> Result<String> {
    let mut template = format!("# Written by `{HOW}` from deploy/rbac.yaml.\n");
    for object in text.split("\n---\n").filter(|object| !object.contains("kind: Namespace")) {
        let object =
            format!("{object}\n").replace(&format!("{NAMESPACE}\n"), "namespace: {{ .Release.Namespace }}\n");
        let object = object.replace(&format!("{NAMESPACE}}}"), "namespace: {{ .Release.Namespace }}}");
        let own = "\n  labels:\n";
        let object = match object.find(own) {
            Some(at) => {
                let (before, after) = object.split_at(at + own.len());
                format!("{before}{LABELS}{after}")
            }
            None => {
                let head = "\nmetadata:\n";
                let at = object.find(head).context("an object without metadata")? + head.len();
                let (before, after) = object.split_at(at);
                format!("{before}  labels:\n{LABELS}{after}")
            }
        };
        template += &format!("---\n{}\n", object.trim_end());
    }
    Ok(template)
}
