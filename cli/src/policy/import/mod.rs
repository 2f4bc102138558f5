//! `nameward policy import`: policies of other tools, written as ours (SEMANTICS N6).
//!
//! One module a format, each a pure core from parsed documents to drafts and notes. What cannot be said here is listed
//! with its place and what to write instead. Nothing is written wider than it was unless the user agreed; what is written
//! is checked as `nameward policy check` does.

mod at;
mod aws;
mod cilium;
mod cluster_network_policy;
mod draft;
mod gke;
mod istio;
mod kubernetes;
mod meet;
mod names;
mod notes;
mod squid;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use ipnet::IpNet;
use nameward_crds::{LabelSelector, Mistakes, file, to_yaml};
use serde_json::{Value, json};

use self::{
    at::At,
    draft::Draft,
    kubernetes::Object,
    notes::{Notes, Weight},
};
use super::{
    NO,
    args::{Import, ImportFormat, SourceKind, Widen},
};
use crate::see::output::{inert, print};

/// The group of AWS's objects.
const AWS: &str = "networking.k8s.aws";

/// What the user said beside the files.
#[derive(Clone, Debug, Default)]
struct Options {
    widen: Vec<Widen>,
    /// Ranges of the cluster's own addresses.
    cluster: Vec<IpNet>,
    namespace: Option<String>,
    selector: LabelSelector,
    registry_only: bool,
    ports: Vec<u16>,
}

impl Options {
    fn widens(&self, what: Widen) -> bool {
        self.widen.contains(&what)
    }
}

/// A file, read.
type Source = (PathBuf, String);

/// Imports files.
pub(super) fn import(arguments: &Import) -> Result<ExitCode> {
    let options = Options {
        widen: arguments.widen.clone(),
        cluster: arguments.cluster_cidr.iter().map(IpNet::trunc).collect(),
        namespace: arguments.namespace.clone(),
        selector: arguments.selector.clone().unwrap_or_default(),
        registry_only: arguments.registry_only,
        ports: arguments.port.clone(),
    };
    let mut notes = Notes::default();
    let objects = policies(&read(&arguments.files)?, arguments.from, &options, &mut notes)?;
    if !objects.is_empty() {
        let text = written(&objects, arguments.output)?;
        print(&inert(&text))?;
    }
    for note in notes.list() {
        eprintln!("{note}");
    }
    let (count, lost, refused) = (objects.len(), notes.lost(), notes.refusals());
    let plural = if count == 1 { "y" } else { "ies" };
    match lost {
        0 => eprintln!("nameward: {count} polic{plural} written, everything carried over"),
        1 => eprintln!("nameward: {count} polic{plural} written, 1 thing not carried over"),
        lost => eprintln!("nameward: {count} polic{plural} written, {lost} things not carried over"),
    }
    if refused > 0 {
        eprintln!(
            "nameward: what was refused isolates and denies nothing here: keep it where it is enforced until it is written anew"
        );
    }
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// The texts of files; every one that cannot be read is said.
fn read(files: &[PathBuf]) -> Result<Vec<Source>> {
    let (mut sources, mut mistakes) = (Vec::new(), Vec::new());
    for path in files {
        match file::load_text(path) {
            Ok(text) => sources.push((path.clone(), text)),
            Err(found) => mistakes.extend(found.0),
        }
    }
    if mistakes.is_empty() { Ok(sources) } else { Err(Mistakes(mistakes).into()) }
}

/// The objects that say what the files say.
fn policies(
    sources: &[Source],
    from: Option<SourceKind>,
    options: &Options,
    notes: &mut Notes,
) -> Result<Vec<Value>> {
    let drafts = match from {
        Some(SourceKind::List) => {
            sources.iter().filter_map(|(path, text)| squid::import_list(path, text, options, notes)).collect()
        }
        Some(SourceKind::Squid) => of_squid(sources, options, notes),
        Some(kind) => of_objects(sources, Some(kind), options, notes)?,
        None => {
            let (squid, yaml): (Vec<Source>, Vec<Source>) =
                sources.iter().cloned().partition(|(_, text)| squid::is_configuration(text));
            let mut drafts = of_objects(&yaml, None, options, notes)?;
            drafts.extend(of_squid(&squid, options, notes));
            drafts
        }
    };
    Ok(draft::objects(drafts, notes))
}

/// Configurations, and the lists that they read.
fn of_squid(sources: &[Source], options: &Options, notes: &mut Notes) -> Vec<Draft> {
    let (configurations, lists): (Vec<&Source>, Vec<&Source>) =
        sources.iter().partition(|(_, text)| squid::is_configuration(text));
    let mut known = squid::Lists::new();
    for (path, text) in lists {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !configurations.iter().any(|(_, configuration)| configuration.contains(name.as_str())) {
            notes.about(path, "", nameward_crds::Place { line: 1, column: 1 });
            notes.whole(
                Weight::Left,
                "no acl reads this file, and it is no configuration; import it with --from list",
            );
        }
        known.insert(name, (path.clone(), text.clone()));
    }
    let drafts = configurations.into_iter();
    drafts.filter_map(|(path, text)| squid::import(path, text, &known, options, notes)).collect()
}

/// Kubernetes objects of all files. Mistakes of the texts themselves are errors: what such a file says is not known.
fn of_objects(
    sources: &[Source],
    from: Option<SourceKind>,
    options: &Options,
    notes: &mut Notes,
) -> Result<Vec<Draft>> {
    let (mut parsed, mut mistakes) = (Vec::new(), Vec::new());
    for (path, text) in sources {
        match file::documents(text, path) {
            Ok(documents) if documents.is_empty() => bail!(
                "{}: the file holds nothing; a list of names is imported with --from list, Squid's configuration with --from squid",
                path.display()
            ),
            Ok(documents) => parsed.push((path.as_path(), documents)),
            Err(found) => mistakes.extend(found.0),
        }
    }
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes).into());
    }
    let mut objects = Vec::new();
    for (path, documents) in &parsed {
        for (index, node) in documents.iter().enumerate() {
            Object::read_all(path, At::root(node), index + 1, notes, &mut objects);
        }
    }
    Ok(drafts(objects, from, options, notes))
}

/// Gives each object to the module that knows its kind.
fn drafts(
    objects: Vec<Object<'_>>,
    from: Option<SourceKind>,
    options: &Options,
    notes: &mut Notes,
) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let (mut ordered, mut of_namespaces, mut of_istio) = (Vec::new(), Vec::new(), Vec::new());
    for object in objects {
        let kind = kind_of(&object);
        object.announce(notes);
        match kind {
            None => notes.whole(Weight::Left, unknown(&object)),
            Some(kind) if from.is_some_and(|from| from != kind) => {
                notes.whole(Weight::Left, "--from says that something else is imported");
            }
            Some(SourceKind::Cilium) => drafts.extend(cilium::import(&object, options, notes)),
            Some(SourceKind::Gke) => drafts.extend(gke::import(&object, options, notes)),
            Some(SourceKind::Aws) if object.kind == "ApplicationNetworkPolicy" => of_namespaces.push(object),
            Some(SourceKind::Istio) => of_istio.push(object),
            Some(_) => ordered.push(object),
        }
    }
    // These are read in the light of each other.
    let (aws_objects, standard) = ordered.into_iter().partition::<Vec<_>, _>(|object| object.group == AWS);
    drafts.extend(cluster_network_policy::import(&standard, options, notes).0);
    let (of_aws, earlier) = cluster_network_policy::import(&aws_objects, options, notes);
    drafts.extend(of_aws);
    drafts.extend(of_namespaces.iter().filter_map(|object| aws::import(object, &earlier, options, notes)));
    drafts.extend(istio::import(&of_istio, options, notes));
    drafts
}

/// What an object is one of.
fn kind_of(object: &Object<'_>) -> Option<SourceKind> {
    match (object.group, object.version, object.kind) {
        ("cilium.io", "v2", "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy") => {
            Some(SourceKind::Cilium)
        }
        ("networking.gke.io", "v1alpha1" | "v1alpha2" | "v1alpha3", "FQDNNetworkPolicy") => {
            Some(SourceKind::Gke)
        }
        (AWS, "v1alpha1", "ApplicationNetworkPolicy" | "ClusterNetworkPolicy") => Some(SourceKind::Aws),
        ("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy") => {
            Some(SourceKind::ClusterNetworkPolicy)
        }
        ("networking.istio.io", "v1" | "v1beta1" | "v1alpha3", "ServiceEntry" | "Sidecar")
        | ("install.istio.io", _, "IstioOperator") => Some(SourceKind::Istio),
        ("", "v1", "ConfigMap") if object.at.get("data").is_some_and(|data| data.get("mesh").is_some()) => {
            Some(SourceKind::Istio)
        }
        _ => None,
    }
}

/// What is said of an object that is not imported.
fn unknown(object: &Object<'_>) -> String {
    match object.kind {
        "EgressPolicy" | "ClusterEgressPolicy" => "this is a policy of Nameward already".into(),
        "NetworkPolicy" => "NetworkPolicies are not imported; leave them to the CNI, whose network policies go on beside Nameward".into(),
        "CiliumCIDRGroup" => "CiliumCIDRGroups are not read; write their blocks where they are used".into(),
        kind if object.group.is_empty() => format!("{kind} of {} is not imported", object.version),
        kind => format!("{kind} of {}/{} is not imported", object.group, object.version),
    }
}

/// All objects as one text, which is checked once more as a whole.
fn written(objects: &[Value], format: ImportFormat) -> Result<String> {
    let text = match format {
        ImportFormat::Yaml => objects.iter().map(to_yaml).collect::<Vec<_>>().join("---\n"),
        ImportFormat::Json => {
            format!("{:#}\n", json!({ "apiVersion": "v1", "kind": "List", "items": objects }))
        }
    };
    if text.len() > file::MAX_BYTES {
        bail!(
            "what was imported is larger than a file may be ({} MiB); import fewer files at a time",
            file::MAX_BYTES >> 20
        );
    }
    match file::read(&text, Path::new("import")) {
        Ok(_) => Ok(text),
        Err(mistakes) => {
            bail!("what was imported is not in order, which is a mistake of this program:\n{mistakes}")
        }
    }
}
