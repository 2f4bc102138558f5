//! The images that the chart installs: one for each process, with the rights that it needs.

use std::path::Path;

use super::Image;

/// What the images are called unless said otherwise: what is loaded into a node's runtime needs no registry.
pub const REGISTRY: &str = "localhost/nameward";
/// The user that the resolver runs as: nobody's on most machines.
pub const RESOLVER_USER: u32 = 65_532;
/// The user that the cluster's API runs as.
const API_USER: u32 = 65_533;

struct Described {
    name: &'static str,
    about: &'static str,
    /// The first is what it runs.
    programs: &'static [&'static str],
    user: Option<u32>,
}

const IMAGES: [Described; 4] = [
    Described {
        name: "resolver",
        about: "Answers the DNS queries of workloads by policy",
        programs: &["nameward-resolver"],
        user: Some(RESOLVER_USER),
    },
    Described {
        name: "enforcer",
        about: "Enforces egress policies by name on the pods of a node; with the command line",
        programs: &["nameward-enforcer", "nameward"],
        user: None,
    },
    Described {
        name: "cni",
        about: "The CNI plugin, and its installer",
        programs: &["nameward-cni"],
        user: None,
    },
    Described {
        name: "api",
        about: "Answers for the cluster: asks the enforcers of all nodes",
        programs: &["nameward-api"],
        user: Some(API_USER),
    },
];

/// The images of programs in a folder, `REGISTRY/NAME:VERSION` each. `quick` is for tests, see [`Image::quick`].
pub fn product(programs: &Path, registry: &str, version: &str, quick: bool) -> Vec<Image> {
    IMAGES.iter().map(|one| one.image(programs, registry, version, quick)).collect()
}

impl Described {
    fn image(&self, programs: &Path, registry: &str, version: &str, quick: bool) -> Image {
        let labels = [
            ("title", format!("nameward-{}", self.name)),
            ("description", self.about.to_owned()),
            ("version", version.to_owned()),
            ("licenses", "Apache-2.0 OR MIT".to_owned()),
            ("vendor", "Nameward".to_owned()),
        ];
        Image {
            name: format!("{registry}/{}:{version}", self.name),
            programs: self.programs.iter().map(|program| programs.join(program)).collect(),
            entrypoint: vec![format!("/bin/{}", self.programs[0])],
            user: self.user,
            labels: labels.map(|(name, value)| (format!("org.opencontainers.image.{name}"), value)).into(),
            quick,
            ..Image::default()
        }
    }
}
