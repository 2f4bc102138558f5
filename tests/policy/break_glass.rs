//! `nameward break-glass` against an API server of a few lines: what it writes, and what it says. That enforcers do what is
//! written is in `tests/kubernetes`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
};

use nameward_test_support::{Scratch, program};
use serde_json::{Value, json};

const PATH: &str = "/apis/nameward.io/v1alpha1/egressconfigs";

/// The object, and what is asked of it.
#[derive(Default)]
struct State {
    object: Option<Value>,
    /// Writes that somebody else is faster than.
    conflicts: usize,
    forbidden: bool,
    requests: Vec<String>,
}

struct Server {
    state: Arc<Mutex<State>>,
    folder: Scratch,
}

impl Server {
    fn start(name: &str, object: Option<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { object, ..State::default() }));
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &mut served.lock().unwrap());
            }
        });
        let folder = Scratch::new(name).unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
             clusters: [{{name: here, cluster: {{server: 'http://{address}'}}}}]\n\
             users: [{{name: here, user: {{token: t}}}}]\n\
             contexts: [{{name: here, context: {{cluster: here, user: here}}}}]\n"
        );
        folder.file("config", &config).unwrap();
        Self { state, folder }
    }

    /// Status, output and what was said.
    fn say(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(program("nameward").unwrap());
        command.arg("break-glass").args(words).env("KUBECONFIG", self.folder.path().join("config"));
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn spec(&self) -> Value {
        self.state.lock().unwrap().object.clone().unwrap()["spec"].clone()
    }
}

fn serve(stream: TcpStream, state: &mut State) {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    if reader.read_line(&mut request).unwrap_or(0) == 0 {
        return;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (status, answer) = state.answer(request.trim(), &body);
    let text = answer.to_string();
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
    .unwrap();
}

impl State {
    fn answer(&mut self, request: &str, body: &[u8]) -> (u16, Value) {
        let refusal = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                "message": format!("egressconfigs.nameward.io {reason}")});
            (code, status)
        };
        let (method, rest) = request.split_once(' ').unwrap();
        let path = rest.split([' ', '?']).next().unwrap();
        self.requests.push(format!("{method} {path}"));
        if self.forbidden {
            return refusal(403, "Forbidden");
        }
        match (method, path.strip_prefix(PATH)) {
            ("GET", Some("/default")) => match &self.object {
                Some(object) => (200, object.clone()),
                None => refusal(404, "NotFound"),
            },
            ("POST", Some("")) | ("PUT", Some("/default")) => {
                let mut written: Value = serde_json::from_slice(body).unwrap();
                if self.conflicts > 0 {
                    self.conflicts -= 1;
                    return refusal(409, "Conflict");
                }
                if method == "PUT" {
                    let known = &self.object.as_ref().unwrap()["metadata"]["resourceVersion"];
                    assert_eq!(
                        &written["metadata"]["resourceVersion"], known,
                        "only what was read is replaced"
                    );
                }
                assert_eq!(written["kind"], "EgressConfig");
                written["metadata"]["resourceVersion"] = "2".into();
                self.object = Some(written.clone());
                (200, written)
            }
            _ => refusal(404, "NotFound"),
        }
    }
}

fn config(entries: Value) -> Value {
    json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "EgressConfig",
        "metadata": {"name": "default", "resourceVersion": "1"},
        "spec": {"settings": {"onDeny": "Drop"}, "later": {"field": 1}, "breakGlass": entries},
    })
}

// R13
#[test]
fn one_command_suspends_and_one_ends() {
    let server = Server::start("glass", Some(config(json!([]))));
    server.state.lock().unwrap().conflicts = 2;
    let words = ["--scope", "namespace=ci", "--for", "30m", "--reason", "INC-7", "--name", "incident"];
    let (status, said, error) = server.say(&words);
    assert_eq!(status, Some(0), "{error}");
    assert!(said.contains("namespace=ci until") && said.contains("break-glass --end incident"), "{said}");
    let spec = server.spec();
    let entry = &spec["breakGlass"][0];
    assert_eq!((&entry["name"], &entry["reason"]), (&"incident".into(), &"INC-7".into()));
    assert_eq!(entry["scope"]["namespace"], "ci");
    let until: jiff::Timestamp = entry["until"].as_str().unwrap().parse().unwrap();
    let left = until.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((1_700..=1_800).contains(&left), "{left} s");
    assert_eq!((&spec["later"], &spec["settings"]), (&json!({"field": 1}), &json!({"onDeny": "Drop"})));
    let (_, shown, _) = server.say(&["-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown[0]["name"], &shown[0]["scope"]), (&"incident".into(), &"namespace=ci".into()));
    let (status, _, error) = server.say(&["--end", "other"]);
    assert!(status == Some(125) && error.contains("there are incident"), "{error}");
    let (status, said, error) = server.say(&["--end"]);
    assert!(status == Some(0) && said.contains("incident has ended"), "{said}{error}");
    assert_eq!(server.spec()["breakGlass"], json!([]));
}

#[test]
fn an_object_that_is_not_there_is_made() {
    let server = Server::start("glass-new", None);
    let (status, _, error) = server.say(&["--scope", "cluster", "--for", "5m", "--reason", "drill"]);
    assert_eq!(status, Some(0), "{error}");
    let spec = server.spec();
    assert_eq!(spec["breakGlass"][0]["scope"]["cluster"], true, "{spec}");
    assert!(spec["breakGlass"][0]["name"].as_str().unwrap().starts_with("break-glass-"), "{spec}");
    assert_eq!(
        server.state.lock().unwrap().requests,
        [format!("GET {PATH}/default"), format!("POST {PATH}")]
    );
}

// R13: not by a tenant; names and reasons are data
#[test]
fn refusals_say_what_to_do_and_steer_no_terminal() {
    let hostile = "\u{1b}]0;owned\u{7}";
    let entry =
        json!({"name": "x", "scope": {"cluster": true}, "until": "2999-01-01T00:00:00Z", "reason": hostile});
    let server = Server::start("glass-no", Some(config(json!([entry]))));
    for format in ["table", "json", "yaml"] {
        let (status, shown, _) = server.say(&["-o", format]);
        assert!(status == Some(0) && shown.contains("owned") && !shown.contains('\u{1b}'), "{shown:?}");
    }
    server.state.lock().unwrap().forbidden = true;
    let words = ["--scope", "cluster", "--for", "5m", "--reason", "x"];
    let (status, _, error) = server.say(&words);
    assert!(status == Some(125) && error.contains("administrators"), "{error}");
    for (words, says) in [
        (&["--scope", "cluster", "--for", "5m"][..], "--reason"),
        (&["--scope", "cluster", "--reason", "x"], "--for"),
        (&["--scope", "everything", "--for", "5m", "--reason", "x"], "namespace=NAME"),
        (&["--scope", "cluster", "--for", "soon", "--reason", "x"], "30m"),
        (&["--scope", "cluster", "--for", "5m", "--reason", " "], "say why"),
        (&["--end", "x", "--scope", "cluster", "--for", "5m", "--reason", "x"], "cannot be used with"),
        (&["--kubeconfig", "/absent"], "cannot read the kubeconfig"),
    ] {
        let (status, _, error) = server.say(words);
        assert!(status == Some(125) && error.contains(says), "{words:?}: {error}");
    }
    let mut command = Command::new(program("nameward").unwrap());
    let command = command.arg("break-glass").env("KUBECONFIG", "/absent").env("HOME", "/absent");
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("On a host without Kubernetes"), "{error}");
}
