use nameward_policy::Name;

use super::*;

/// A file of its own, which goes with the guard.
struct File(PathBuf);

impl File {
    fn new(test: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nwt-config-{test}-{}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn read(&self) -> Result<Config, ConfigError> {
        Config::read(&self.0, HostAllowed::default())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn file(rule: &str) -> String {
    format!(
        "endpoints:
- {{name: runner, namespace: ci, labels: {{app: runner}}, addresses: [10.7.1.2], interface: nwt-absent}}
policies:
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {{name: runners, namespace: ci}}
  spec:
    podSelector: {{matchLabels: {{app: runner}}}}
    egress:
    - name: web
      to: [{{domainNames: [app.example.com]}}]
      ports: [{{protocol: TCP, port: 443}}]
{rule}
settings: {{dns: {{trusted: [\"10.96.0.10:53\"]}}}}
"
    )
}

fn classes(wanted: &Wanted) -> u64 {
    wanted.endpoints[0].rules.classes_of(&Name::parse("app.example.com").unwrap())
}

// S1
#[test]
fn a_file_becomes_endpoints_with_rules() {
    let file = File::new("whole", &file(""));
    let config = file.read().unwrap();
    assert_eq!(config.trusted(), ["10.96.0.10:53".parse().unwrap()]);
    let wanted = config.wanted(Timestamp::now(), &[]).unwrap();
    let [endpoint] = &wanted.endpoints[..] else { panic!("one endpoint") };
    assert_eq!((&*endpoint.config.uid, &*endpoint.config.name), ("ci/runner", "ci/runner"));
    assert_eq!(endpoint.config.attachment, Attachment::Interface { name: "nwt-absent".into() });
    assert!(!endpoint.config.allow_host);
    assert_eq!(endpoint.config.settings.dns.trusted, config.trusted());
    assert_ne!(classes(&wanted), 0);
    assert_eq!(wanted.next_change, None);
}

// R7
#[test]
fn rules_end_at_their_time() {
    let file = File::new("expiry", &file("      expiresAt: \"2100-01-01T00:00:00Z\""));
    let config = file.read().unwrap();
    let end: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
    let before = config.wanted("2099-12-31T23:59:59Z".parse().unwrap(), &[]).unwrap();
    assert_eq!((before.next_change, classes(&before) != 0), (Some(end), true));
    let after = config.wanted(end, &[]).unwrap();
    assert_eq!((after.next_change, classes(&after)), (None, 0));
}

// S1, F2
#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let text = file("").replace("app.example.com", "app..example.com").replace("interface:", "interfase:");
    let error = File::new("mistakes", &text).read().unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert!(lines.len() >= 2, "{error}");
    assert!(lines.iter().any(|line| line.contains(".yaml:2:")), "{error}");
    assert!(lines.iter().any(|line| line.contains(".yaml:11:")), "{error}");
}

#[test]
fn the_root_cgroup_is_fenced_only_on_demand() {
    let Ok(root) = kernel::cgroup2_mount() else { return };
    let text = file("").replace("interface: nwt-absent", &format!("cgroup: {}", root.display()));
    let file = File::new("root", &text);
    let error = file.read().unwrap_err().to_string();
    assert!(error.contains("endpoint ci/runner") && error.contains("--allow-root-cgroup"), "{error}");
    let allowed = HostAllowed { root_cgroup: true, ..HostAllowed::default() };
    let wanted = Config::read(&file.0, allowed).unwrap().wanted(Timestamp::now(), &[]).unwrap();
    assert!(wanted.endpoints[0].config.allow_host);
}
