//! The words of `nameward break-glass`, and their help.

use std::path::PathBuf;

use clap::Args;
use jiff::SignedDuration;
use nameward_crds::{BreakGlassScope, PodName};

use crate::see::output::Format;

const EXAMPLES: &str = "\
Examples:
  nameward break-glass                                                   # what is suspended now, and until when
  nameward break-glass --scope namespace=ci --for 30m --reason INC-7     # nothing is denied there for half an hour
  nameward break-glass --scope pod=ci/runner-0 --for 2h --reason INC-7 --name incident
  nameward break-glass --scope cluster --for 10m --reason 'resolver down' --context prod
  nameward break-glass --end incident                                    # everything is enforced again at once

While it lasts everything passes, and what would be denied is told (`nameward watch --verdict would-deny`). It ends by \
itself. It stands in EgressConfig/default, which tenants may not change; an event, a metric and the status of every \
policy say it. On a host without Kubernetes there is no such object: write `mode: Audit` into its policies, and send \
SIGHUP to nameward-enforcer.

Exit status: 0 done; 125 when it could not be.";

/// Suspend enforcement for a while: nothing is denied, everything is told
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BreakGlass {
    /// Where
    #[arg(long, value_name = "cluster | namespace=NAME | node=NAME | pod=NAMESPACE/NAME", value_parser = scope)]
    #[arg(requires_all = ["duration", "reason"])]
    pub(crate) scope: Option<BreakGlassScope>,

    /// For how long: 30m, 2h, 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = duration, requires = "scope")]
    pub(crate) duration: Option<SignedDuration>,

    /// Why. It stands in events and logs
    #[arg(long, value_name = "TEXT", requires = "scope")]
    pub(crate) reason: Option<String>,

    /// What it is called in reports [default: break-glass-TIME]
    #[arg(long, value_name = "NAME", requires = "scope")]
    pub(crate) name: Option<String>,

    /// End it now; without a name, the only one there is
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with = "scope")]
    pub(crate) end: Option<String>,

    /// The kubeconfig [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// How what is suspended is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// `namespace=ci` and the like.
fn scope(text: &str) -> Result<BreakGlassScope, String> {
    let none = BreakGlassScope::default();
    match text.split_once('=') {
        None if text == "cluster" => Ok(BreakGlassScope { cluster: true, ..none }),
        Some(("namespace", name)) if !name.is_empty() => {
            Ok(BreakGlassScope { namespace: Some(name.into()), ..none })
        }
        Some(("node", name)) if !name.is_empty() => Ok(BreakGlassScope { node: Some(name.into()), ..none }),
        Some(("pod", name)) => match name.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                let pod = PodName { namespace: namespace.into(), name: name.into() };
                Ok(BreakGlassScope { pod: Some(pod), ..none })
            }
            _ => Err("write pod=NAMESPACE/NAME".into()),
        },
        _ => Err("write cluster, namespace=NAME, node=NAME or pod=NAMESPACE/NAME".into()),
    }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let read = text.parse::<SignedDuration>().ok().filter(|duration| duration.as_secs() > 0);
    read.ok_or_else(|| "write a time like 30m, 2h or 1h30m".into())
}

/// How people read a scope.
pub(super) fn scope_text(scope: &BreakGlassScope) -> String {
    match scope {
        BreakGlassScope { namespace: Some(name), .. } => format!("namespace={name}"),
        BreakGlassScope { node: Some(name), .. } => format!("node={name}"),
        BreakGlassScope { pod: Some(pod), .. } => format!("pod={}/{}", pod.namespace, pod.name),
        BreakGlassScope { .. } => "cluster".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_shown() {
        for text in ["cluster", "namespace=ci", "node=node-1.example", "pod=ci/runner-0"] {
            assert_eq!(scope_text(&scope(text).unwrap()), text);
        }
        for wrong in ["", "clusters", "namespace=", "pod=runner", "pod=/a", "ci", "cluster=x"] {
            assert!(scope(wrong).unwrap_err().starts_with("write "), "{wrong}");
        }
    }

    #[test]
    fn times_are_lengths() {
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5_400);
        for wrong in ["", "0s", "-5m", "soon", "30"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
