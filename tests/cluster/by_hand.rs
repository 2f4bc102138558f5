//! What `cargo xtask cluster` has beside the cluster of these tests: ports that lead inside, images of others.

use std::{path::Path, time::Duration};

use nameward_test_support::{Scratch, images::Image, output_within, wait_until_ok};

use crate::{
    gate,
    pods::{Container, SOON, World, pod_of},
};

// `up --dns`, and the port of `export KUBECONFIG`
pub(crate) fn ports_lead_inside(world: &World) {
    let control = world.cluster.control();
    let inside = Path::new("/run/netns").join(control.namespace());
    let internet = &world.internet;
    // The name server is reached from there as one of the machine's own network would be from outside.
    internet.host().run(|| gate::lead_dns_to(internet.dns(), &inside)).unwrap().unwrap();
    let server = format!("@{}", gate::DNS);
    for transport in ["+notcp", "+tcp"] {
        wait_until_ok(&format!("an answer by {transport}"), SOON, || {
            let words = [transport, "+short", "+timeout=5", &server, "allowed.example"];
            let said = control.output("kdig", &words).map_err(|error| error.to_string())?;
            if said.trim() == "198.51.100.10" { Ok(()) } else { Err(said) }
        });
    }
    let port = gate::open(&inside).unwrap();
    let url = format!("https://127.0.0.1:{port}/readyz");
    let mut curl = std::process::Command::new("curl");
    let output =
        output_within(curl.args(["-sSk", "--max-time", "10", &url]), Duration::from_secs(20)).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok", "{output:?}");
}

// `load FILE.tar`: pods of every node can be of that image.
pub(crate) fn an_image_is_loaded_on_every_node(world: &World) {
    const NAME: &str = "nameward.test/extra:1";
    world.namespace("loaded", "");
    let scratch = Scratch::new("image").unwrap();
    let image = Image {
        name: NAME.into(),
        programs: vec!["/bin/busybox".into()],
        command: ["/bin/busybox", "sleep", "86400"].map(String::from).into(),
        quick: true,
        ..Image::default()
    };
    let archive = image.archive(scratch.path()).unwrap();
    world.cluster.load(&archive).unwrap();
    for node in ["n1", "n2"] {
        let pod = pod_of("loaded", node, "app: extra", &[], &Container::sleeps().on(node));
        world.apply(&pod.replace("nameward.test/tools:1", NAME));
    }
    for (number, node) in ["n1", "n2"].iter().enumerate() {
        let pod = world.running("loaded", node);
        assert_eq!(pod.node, number);
        pod.exec(&["curl", "--version"]).expect_err("it is an image without curl");
        pod.exec(&["true"]).unwrap();
    }
    world.kubectl("delete namespace loaded --wait=false");
}
