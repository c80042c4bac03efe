//! Docker's credential helpers: programs that keep the secrets.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pipeline_core::Secret;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::source::Credentials;

/// More than any helper answers; a helper that goes on is stopped.
const MAX_ANSWER: u64 = 1024 * 1024;
/// What helpers print, with a failing exit code, when they know nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name that marks an identity token.
const TOKEN_USER: &str = "<token>";

/// Why a credential helper gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperError {
    /// The name in the configuration cannot be part of a program's name.
    #[error("credential helper name {name:?} in docker's configuration is not a plain name")]
    Name {
        /// The refused name.
        name: String,
    },
    /// The program could not be run.
    #[error(
        "credential helper {program} cannot be run; install it or remove it from docker's configuration"
    )]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program did not answer in time and was killed.
    #[error(
        "credential helper {program} did not answer for {registry} within {limit:?} and was killed"
    )]
    Deadline {
        /// The program.
        program: String,
        /// The registry asked about.
        registry: String,
        /// The time it had.
        limit: Duration,
    },
    /// The program failed.
    #[error("credential helper {program} failed for {registry} ({status}): {message}")]
    Failed {
        /// The program.
        program: String,
        /// The registry asked about.
        registry: String,
        /// How it ended.
        status: String,
        /// The first line of what it said.
        message: String,
    },
    /// The program's answer is not the JSON document of the protocol.
    #[error("credential helper {program} gave no usable answer for {registry}")]
    Answer {
        /// The program.
        program: String,
        /// The registry asked about.
        registry: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<name> get` about `registry`.
///
/// Dropping the future kills the child.
pub(crate) async fn ask(
    name: &str,
    folder: Option<&Path>,
    registry: &str,
    limit: Duration,
) -> Result<Option<Credentials>, HelperError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(HelperError::Name {
            name: name.to_owned(),
        });
    }
    let program = format!("docker-credential-{name}");
    let start = |source| HelperError::Start {
        program: program.clone(),
        source,
    };
    let own = folder
        .map(|folder| folder.join(&program))
        .filter(|path| path.is_file());
    let mut child = Command::new(own.unwrap_or_else(|| PathBuf::from(&program)))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let talk = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A helper that answers without reading its input is none of our business.
                drop(stdin.write_all(registry.as_bytes()).await);
                drop(stdin.shutdown().await);
            }
        };
        let ((), output, errors) = tokio::join!(write, read_all(stdout), read_all(stderr));
        Ok::<_, io::Error>((output?, errors?, child.wait().await?))
    };
    let (output, errors, status) = match tokio::time::timeout(limit, talk).await {
        Ok(result) => result.map_err(start)?,
        Err(_elapsed) => {
            return Err(HelperError::Deadline {
                program,
                registry: registry.to_owned(),
                limit,
            });
        }
    };
    if status.success() {
        // The parser's message would quote the document, secret included: it is not kept.
        let answer: Answer =
            serde_json::from_slice(&output).map_err(|_unprintable| HelperError::Answer {
                program,
                registry: registry.to_owned(),
            })?;
        if answer.username.is_empty() && answer.secret.is_empty() {
            return Ok(None);
        }
        let secret = Secret::new(answer.secret);
        return Ok(Some(if answer.username == TOKEN_USER {
            Credentials::identity_token(secret)
        } else {
            Credentials::password(answer.username, secret)
        }));
    }
    // Helpers explain themselves on standard output.
    let said = String::from_utf8_lossy(if output.is_empty() { &errors } else { &output });
    let message = explanation(&said);
    if message.starts_with(NOT_FOUND) {
        return Ok(None);
    }
    Err(HelperError::Failed {
        program,
        registry: registry.to_owned(),
        status: status.to_string(),
        message,
    })
}

/// The first line of what a helper said, unless it looks like the document with the secret.
fn explanation(said: &str) -> String {
    let line = said.lines().next().unwrap_or_default().trim();
    if line.contains(['{', '"']) {
        return "what it said may hold a secret and is not shown".to_owned();
    }
    line.to_owned()
}

async fn read_all(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_quotes_no_document() {
        assert_eq!(explanation("no access\nmore"), "no access");
        for said in [
            "{\"Username\":\"a\",\"Secret\":\"b\"}",
            "  \"Secret\": \"b\"\n",
        ] {
            assert!(!explanation(said).contains("Secret"), "{said}");
        }
    }
}
