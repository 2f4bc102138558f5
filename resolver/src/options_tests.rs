use clap::CommandFactory;

use super::*;

fn read(arguments: &[&str]) -> Options {
    try_read(arguments).unwrap_or_else(|error| panic!("{error}"))
}

fn try_read(arguments: &[&str]) -> Result<Options, String> {
    let all = ["nameward-resolver"].iter().chain(arguments);
    Options::try_parse_from(all).map_err(|error| error.to_string())
}

fn plain(address: &str) -> Server {
    Server::plain(address.parse().unwrap())
}

// S4
#[test]
fn the_feed_is_where_enforcers_look() {
    Options::command().debug_assert();
    let feed = |place: &str| {
        let places = vec![FeedPlace::from_str(place).unwrap()];
        Source::Feed { places, listen: Vec::new() }
    };
    assert_eq!(read(&[]).source(), feed("unix:/run/nameward/feed"));
    assert_eq!(read(&["--feed", "unix:/x/feed"]).source(), feed("unix:/x/feed"));
    let options = read(&["--upstream", "198.51.100.53", "--upstream", "[2001:db8::53]:5353"]);
    let servers = ["198.51.100.53:53", "[2001:db8::53]:5353"].map(plain);
    assert_eq!(options.upstreams().unwrap(), servers);
}

// S2
#[test]
fn a_file_needs_an_address_to_listen_at() {
    let options = read(&["--listen", "127.0.0.1:5300", "--listen", "[::1]:5300", "--endpoints", "f"]);
    let listen = vec!["127.0.0.1:5300".parse().unwrap(), "[::1]:5300".parse().unwrap()];
    assert_eq!(options.source(), Source::File { file: "f".into(), listen });
    assert!(try_read(&["--endpoints", "f"]).unwrap_err().contains("--listen"));
    assert!(try_read(&["--listen", "127.0.0.1:53"]).unwrap_err().contains("--endpoints"));
    let both = ["--listen", "127.0.0.1:53", "--endpoints", "f", "--feed", "unix:/x"];
    assert!(try_read(&both).unwrap_err().contains("cannot be used with"));
}

#[test]
fn enforcers_of_other_hosts_need_certificates() {
    let feed = ["--feed", "tls://192.0.2.1:9853", "--listen", "192.0.2.1:53"];
    let options = read(&feed);
    let (places, listen) =
        (vec![FeedPlace::Far("192.0.2.1:9853".parse().unwrap())], vec!["192.0.2.1:53".parse().unwrap()]);
    assert_eq!(options.source(), Source::Feed { places, listen });
    assert!(options.feed_files().unwrap_err().to_string().contains("--feed-certificate"));
    let files = ["--feed-certificate", "c", "--feed-key", "k", "--feed-ca", "a"];
    let all: Vec<&str> = feed.iter().chain(&files).copied().collect();
    assert_eq!(read(&all).feed_files().unwrap().unwrap().key, PathBuf::from("k"));
    assert!(try_read(&files[..2]).unwrap_err().contains("--feed-key"));
    assert_eq!(read(&[]).feed_files(), Ok(None));
}

// Q9
#[test]
fn grants_by_name_are_for_forwarders() {
    assert_eq!(read(&[]).scope(), Ok(Scope::Endpoint));
    let forwarder = ["--listen", "127.0.0.1:53", "--feed", "unix:/x", "--trusted-forwarder", "192.0.2.10"];
    let with = |more: &[&str]| read(&[&forwarder, more].concat()).scope();
    assert_eq!(with(&[]), Ok(Scope::Endpoint));
    assert_eq!(with(&["--scope", "name"]), Ok(Scope::Name));
    assert_eq!(with(&["--scope", "endpoint"]), Ok(Scope::Endpoint));
    assert_eq!(read(&["--scope", "name"]).scope(), Err(OptionsError::NoForwarder));
    assert!(try_read(&["--scope", "pod"]).unwrap_err().contains("endpoint, name"));
}

#[test]
fn mistakes_say_what_to_write() {
    let mistakes = [
        (["--feed", "/x"], "write unix:/x"),
        (["--feed", "unix:x"], "must begin with /"),
        (["--feed", "tls://192.0.2.1"], "tls://192.0.2.1:9853"),
        (["--listen", "127.0.0.1"], "write 127.0.0.1:53"),
        (["--listen", "::1"], "write [::1]:53"),
        (["--listen", "localhost:53"], "write an address and a port"),
        (["--upstream", "dns.example"], "write the address"),
        (["--upstream", "198.51.100.53:0"], "port 0"),
        (["--upstream", "0.0.0.0"], "no server has this address"),
        (["--route", "corp.example"], "write DOMAIN=ADDR"),
        (["--route", "a..b=10.0.0.53"], "a..b"),
        (["--upstream", "tls://198.51.100.53"], "write tls://198.51.100.53#NAME"),
        (["--upstream", "tls://198.51.100.53#-"], "no name that a certificate can have"),
        (["--upstream", "tls://dns.example#dns.example"], "write the address"),
        (["--log", "xml"], "possible values: text, json"),
    ];
    for (arguments, says) in mistakes {
        let error = try_read(&arguments).unwrap_err();
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}

#[test]
fn servers_over_tls_prove_a_name() {
    let of = |text: &str| {
        let server: Server = text.parse().unwrap();
        let ServerOver::Tls(name) = server.over else { panic!("{text}: {server:?}") };
        (server.address.to_string(), name.to_str().into_owned())
    };
    let name = String::from("dns.example");
    assert_eq!(of("tls://198.51.100.53#dns.example"), ("198.51.100.53:853".into(), name.clone()));
    assert_eq!(of("tls://[2001:db8::53]:8853#dns.example"), ("[2001:db8::53]:8853".into(), name.clone()));
    assert_eq!(of("tls://2001:db8::53#dns.example"), ("[2001:db8::53]:853".into(), name));
    assert_eq!(of("tls://198.51.100.53#198.51.100.53").1, "198.51.100.53");
    let route: Route = "corp.example=tls://198.51.100.53#dns.example".parse().unwrap();
    assert!(matches!(route.server.over, ServerOver::Tls(_)));
}

#[test]
fn servers_over_tcp_alone() {
    let server: Server = "tcp://198.51.100.53".parse().unwrap();
    assert_eq!(server, Server { address: "198.51.100.53:53".parse().unwrap(), over: ServerOver::Tcp });
    let route: Route = "corp.example=tcp://[2001:db8::53]:5353".parse().unwrap();
    assert_eq!((route.server.address.port(), route.server.over), (5_353, ServerOver::Tcp));
    assert!("tcp://dns.example".parse::<Server>().unwrap_err().contains("write the address"));
}

#[test]
fn somebody_must_be_asked() {
    let absent = Path::new("/nonexistent");
    assert_eq!(read(&[]).upstreams_or(absent), Err(OptionsError::NoUpstream));
    let own = ["--listen", "0.0.0.0:53", "--endpoints", "f", "--upstream", "127.0.0.1"];
    let itself = OptionsError::OwnUpstream("127.0.0.1:53".parse().unwrap());
    assert_eq!(read(&own).upstreams_or(absent), Err(itself));
    let own = ["--listen", "127.0.0.1:53", "--endpoints", "f", "--upstream", "127.0.0.1:54"];
    assert!(read(&own).upstreams_or(absent).is_ok());
}

#[test]
fn servers_of_a_domain_stand_for_each_other() {
    let routes =
        ["--route", "corp.example=10.0.0.1", "--route", "b=10.0.0.2", "--route", "corp.example=10.0.0.3:54"];
    let routes = read(&routes).routes();
    assert_eq!(routes.len(), 2);
    assert_eq!(routes[0].0.as_str(), "corp.example");
    assert_eq!(routes[0].1, ["10.0.0.1:53", "10.0.0.3:54"].map(plain));
}

#[test]
fn the_systems_servers_are_read() {
    let text = "# stub\nnameserver 127.0.0.53\nnameserver fe80::1%7\nsearch corp.example\nnameserver x\n";
    let servers = ["127.0.0.53:53", "[fe80::1%7]:53"].map(|server| server.parse().unwrap());
    assert_eq!(system_servers(text), servers);
}
