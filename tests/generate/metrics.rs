//! Writes `docs/metrics.md` from the families that the processes declare; with `--check`, fails when it differs.

use std::{fs, path::Path, process::ExitCode};

use nameward_daemon::metrics::table;

const HEAD: &str = "\
<!-- Written by `cargo run -p nameward-tests --bin metricsgen`; change the families in the code instead. -->
# Metrics

`nameward-enforcer --api` serves `/metrics` beside everything else, `nameward-resolver --metrics` serves it alone, both in the
OpenMetrics text format, on a unix socket or on a loopback address that asks for a token:

```yaml
scrape_configs:
- job_name: nameward
  authorization: {credentials_file: /etc/nameward/token}
  static_configs: [{targets: [\"127.0.0.1:9853\", \"127.0.0.1:9854\"]}]
```

No label is a domain name or an address. `endpoint` has as many values as the node has endpoints, `reason` as many as there are
[reasons](policies.md). Counters begin at 0 with the process, except for packets and bytes, which the kernel keeps as long as the
endpoint is guarded. [prometheus/alerts.yaml](prometheus/alerts.yaml) has alerts, [prometheus/dashboard.json](prometheus/dashboard.json)
a dashboard for Grafana.
";

fn main() -> ExitCode {
    let page = format!(
        "{HEAD}\n## nameward-enforcer\n\n{}\n## nameward-resolver\n\n{}",
        table(nameward_enforcer::api::metrics::FAMILIES),
        table(nameward_resolver::wiring::metrics::families()),
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    let outcome = match check {
        true if fs::read_to_string(&file).is_ok_and(|text| text == page) => Ok(()),
        true => {
            Err("docs/metrics.md differs; run `cargo run -p nameward-tests --bin metricsgen` and commit it"
                .to_owned())
        }
        false => fs::write(&file, page).map_err(|error| error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("metricsgen: {message}");
            ExitCode::FAILURE
        }
    }
}
