//! Requests to the API server by curl, which starts much faster than kubectl does.

use std::{fmt::Write, fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nameward_test_support::{
    cluster::{Cluster, SERVER},
    output_within,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
/// Requests of one call of curl, and how many of them are under way at a time.
const AT_ONCE: usize = 500;
const PARALLEL: &str = "16";

/// The API server of a cluster, for its administrator.
pub(crate) struct Api<'a> {
    cluster: &'a Cluster,
    /// What curl is told for every request.
    common: String,
}

impl<'a> Api<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Result<Self> {
        let kubeconfig = fs::read_to_string(cluster.kubeconfig())?;
        let word = |after: &str| -> Result<String> {
            let (_, rest) =
                kubeconfig.split_once(after).with_context(|| format!("no {after} in the kubeconfig"))?;
            Ok(rest.split('\'').next().unwrap_or_default().to_owned())
        };
        let (authority, token) = (word("certificate-authority: '")?, word("token: '")?);
        let common = format!(
            "cacert = \"{authority}\"\nheader = \"Authorization: Bearer {token}\"\nfail-with-body\nsilent\nshow-error\noutput = \
             \"/dev/null\"\n"
        );
        Ok(Self { cluster, common })
    }

    /// Makes an object of a collection.
    pub(crate) fn create(&self, collection: &str, object: &Value) -> Result<()> {
        self.run(&self.request(collection, "POST", "application/json", object)?)
    }

    /// Makes many, some of them at a time.
    pub(crate) fn create_all(&self, objects: &[(String, Value)]) -> Result<()> {
        for some in objects.chunks(AT_ONCE) {
            let requests = some
                .iter()
                .map(|(collection, one)| self.request(collection, "POST", "application/json", one));
            let requests = requests.collect::<Result<Vec<_>>>()?;
            self.run(&requests.join("next\n"))?;
        }
        Ok(())
    }

    /// Changes an object.
    pub(crate) fn patch(&self, object: &str, patch: &Value) -> Result<()> {
        self.run(&self.request(object, "PATCH", "application/merge-patch+json", patch)?)
    }

    fn request(&self, path: &str, method: &str, kind: &str, body: &Value) -> Result<String> {
        let body = body.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        let mut text = self.common.clone();
        write!(
            text,
            "url = \"{SERVER}{path}\"\nrequest = \"{method}\"\nheader = \"Content-Type: {kind}\"\ndata-binary = \"{body}\"\n"
        )?;
        Ok(text)
    }

    fn run(&self, configuration: &str) -> Result<()> {
        let file = self.cluster.kubeconfig().with_file_name("requests");
        fs::write(&file, configuration)?;
        let mut command: Command = self.cluster.control().command("curl");
        command.args(["--no-progress-meter", "--parallel", "--parallel-max", PARALLEL, "--config"]).arg(file);
        let output = output_within(&mut command, LIMIT)?;
        let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).trim().to_owned();
        ensure!(output.status.success(), "the API server refuses: {said}");
        Ok(())
    }
}
