//! moto's S3 server, one process for all tests of this binary.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pipeline_cache::store::{BucketOptions, BucketStore, S3Bucket, S3Credentials};
use pipeline_core::Secret;

/// The server ends when its standard input does: with this process, however that ends.
const SCRIPT: &str = r#"
    "$0" -H 127.0.0.1 -p 0 2>&1 & server=$!
    trap 'kill $server' EXIT
    while read -r line; do :; done
"#;

struct Server {
    address: String,
    /// Holds the server's standard input.
    _child: Child,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let program = std::env::var("MOTO_SERVER").unwrap_or_else(|_| "moto_server".to_owned());
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, &program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, address) = line.split_once("Running on http://")?;
                Some(address.trim().to_owned())
            })
            .unwrap_or_else(|| {
                panic!(
                    "{program} did not start: install it (pip install 'moto[server]'), \
                     or name it in MOTO_SERVER"
                )
            });
        // Or the server blocks once the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Server {
            address,
            _child: child,
        }
    })
}

/// Host and port.
pub(crate) fn address() -> &'static str {
    &server().address
}

/// Who asks, as moto wants to read it; it checks no signature.
const CREDENTIAL: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// One request; answers head and body.
pub(crate) fn request(method: &str, target: &str, body: &[u8]) -> (String, Vec<u8>) {
    let address = address();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: {address}\r\nauthorization: {CREDENTIAL}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.unwrap() + 4);
    let head = String::from_utf8(answer).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 20"),
        "{method} {target}: {head}{}",
        String::from_utf8_lossy(&body)
    );
    (head, body)
}

/// A new bucket.
pub(crate) fn new_bucket() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let name = format!("bucket-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
    request("PUT", &format!("/{name}"), b"");
    name
}

/// Names of all objects.
pub(crate) fn objects(bucket: &str) -> Vec<String> {
    names(
        &request("GET", &format!("/{bucket}?list-type=2&max-keys=1000"), b"").1,
        "<Key>",
    )
}

/// Names of uploads that nobody finished or aborted.
pub(crate) fn uploads(bucket: &str) -> Vec<String> {
    names(
        &request("GET", &format!("/{bucket}?uploads"), b"").1,
        "<UploadId>",
    )
}

fn names(xml: &[u8], element: &str) -> Vec<String> {
    let xml = String::from_utf8_lossy(xml);
    xml.split(element)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('<')?.0.to_owned()))
        .collect()
}

pub(crate) fn s3(bucket: &str, address: &str) -> S3Bucket {
    let credentials = S3Credentials::keys("test", Secret::new("test-secret"));
    S3Bucket::new(bucket, credentials)
        .with_region("us-east-1")
        .with_endpoint(format!("http://{address}"))
}

pub(crate) fn open(bucket: &str, options: BucketOptions) -> BucketStore {
    BucketStore::s3(&s3(bucket, address()), options).unwrap()
}
