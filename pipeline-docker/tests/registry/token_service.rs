//! A token service as registries expect it, with keys of its own.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::server::run;
use crate::wire::{Head, answer, body};

pub(crate) const USER: &str = "robot";
pub(crate) const PASSWORD: &str = "pa:ss+wo/rd?&=%";
pub(crate) const IDENTITY: &str = "identity-token+/=";

/// What the service does; changed by tests.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    /// Requests so far: method and scopes.
    pub(crate) log: Vec<String>,
    /// Answer so many requests with 503 first.
    pub(crate) unavailable: usize,
    /// Repositories that tokens may not be good for.
    pub(crate) forbidden: Vec<String>,
}

/// A running service; stopped when dropped.
pub(crate) struct TokenService {
    pub(crate) realm: String,
    pub(crate) behaviour: Arc<Mutex<Behaviour>>,
    pub(crate) folder: TempDir,
    task: JoinHandle<()>,
}

impl TokenService {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = "req -x509 -newkey rsa:2048 -nodes -keyout token.key -out token.crt -days 30 -subj /CN=test-issuer";
        run(Command::new("openssl")
            .current_dir(folder.path())
            .args(arguments.split(' ')));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let realm = format!("http://{}/token", listener.local_addr().unwrap());
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let (shared, keys) = (Arc::clone(&behaviour), folder.path().to_owned());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (read, mut write) = stream.into_split();
                let mut reader = BufReader::new(read);
                let Some(head) = Head::read(&mut reader).await else {
                    continue;
                };
                let form = body(&mut reader, &head).await;
                let bytes = respond(&head, &form, &shared, &keys);
                drop(write.write_all(&bytes).await);
            }
        });
        Self {
            realm,
            behaviour,
            folder,
            task,
        }
    }
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn respond(head: &Head, form: &[u8], shared: &Mutex<Behaviour>, keys: &Path) -> Vec<u8> {
    let query = head
        .target()
        .split_once('?')
        .map(|(_, query)| query)
        .unwrap_or_default();
    let form = String::from_utf8_lossy(form);
    let text = if head.method() == "POST" {
        form.as_ref()
    } else {
        query
    };
    let pairs: Vec<(String, String)> = text
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    let get = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let scopes: Vec<&str> = pairs
        .iter()
        .filter(|(key, _)| key == "scope")
        .flat_map(|(_, value)| value.split(' '))
        .filter(|scope| !scope.is_empty())
        .collect();
    let mut behaviour = shared.lock().unwrap();
    behaviour
        .log
        .push(format!("{} {}", head.method(), scopes.join(" ")));
    if behaviour.unavailable > 0 {
        behaviour.unavailable -= 1;
        return answer(503, &[], "");
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let (known, named) = if head.method() == "POST" {
        (
            get("grant_type") == Some("refresh_token") && get("refresh_token") == Some(IDENTITY),
            true,
        )
    } else {
        (
            head.get("authorization") == Some(&basic),
            head.get("authorization").is_some(),
        )
    };
    if get("service") != Some("test-registry") || (named && !known) {
        return answer(401, &[], r#"{"details":"incorrect username or password"}"#);
    }
    let access: Vec<Value> = scopes
        .iter()
        .filter_map(|scope| {
            let mut parts = scope.split(':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            // Nobody in particular may read what is public.
            let actions: Vec<&str> = actions
                .split(',')
                .filter(|action| known || (*action == "pull" && name.starts_with("public/")))
                .collect();
            let allowed = !behaviour
                .forbidden
                .iter()
                .any(|forbidden| forbidden == name);
            allowed.then(|| json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let token = sign(&access, keys);
    let field = if head.method() == "POST" {
        "access_token"
    } else {
        "token"
    };
    answer(
        200,
        &[],
        &json!({field: token, "expires_in": 300}).to_string(),
    )
}

/// A token as the registry wants it, with the certificate of its key.
fn sign(access: &[Value], keys: &Path) -> String {
    let certificate = std::fs::read_to_string(keys.join("token.crt")).unwrap();
    let certificate: String = certificate
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = json!({
        "iss": "test-issuer", "aud": "test-registry", "sub": USER,
        "exp": now + 300, "nbf": now - 5, "iat": now, "jti": now.to_string(), "access": access,
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(&header), encode(&claims));
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), &text).unwrap();
    let signature = run(Command::new("openssl")
        .current_dir(keys)
        .args(["dgst", "-sha256", "-sign", "token.key"])
        .arg(input.path()));
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let hex = std::str::from_utf8(&tail[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}
