use std::ffi::OsString;
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Answer, Endpoint, Health, HealthCheck};

/// Healthy when a command exits with 0.
///
/// `{host}` and `{port}` in its arguments are replaced; `HOST` and `PORT` are its whole
/// environment besides what [`with_env`](Self::with_env) gives it.
#[derive(Debug, Clone)]
pub struct CommandCheck {
    program: OsString,
    args: Vec<String>,
    env: Vec<(String, String)>,
    limit: Duration,
}

impl CommandCheck {
    /// Runs `program`, found as the system finds programs.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            limit: Duration::from_secs(5),
        }
    }

    /// Adds an argument; `{host}` and `{port}` are replaced.
    #[must_use]
    pub fn with_arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets how long one probe may take. Default: 5 s.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

impl fmt::Display for CommandCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command {}", self.program.to_string_lossy())?;
        for arg in &self.args {
            write!(f, " {arg}")?;
        }
        Ok(())
    }
}

#[async_trait]
impl HealthCheck for CommandCheck {
    async fn probe(&self, endpoint: &Endpoint) -> Health {
        let port = endpoint.port.to_string();
        let mut command = Command::new(&self.program);
        command
            .args(self.args.iter().map(|arg| {
                arg.replace("{host}", &endpoint.host)
                    .replace("{port}", &port)
            }))
            .env_clear()
            .env("HOST", &endpoint.host)
            .env("PORT", &port)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Health::unhealthy(format!("{self} cannot be started: {error}")),
        };
        let mut out = child.stdout.take();
        let run = async {
            let mut head = Vec::new();
            if let Some(out) = &mut out {
                // Only the head is kept, the rest is drained so that the command can end.
                let _ = out.take(4096).read_to_end(&mut head).await;
                let _ = tokio::io::copy(out, &mut tokio::io::sink()).await;
            }
            (child.wait().await, head)
        };
        match timeout(self.limit, run).await {
            Ok((Ok(status), head)) => {
                let head = String::from_utf8_lossy(&head).into_owned();
                let code = status.code().unwrap_or(-1);
                let health = if status.success() {
                    Health::healthy(format!("{self} exited with 0"))
                } else {
                    Health::unhealthy(format!("{self}: {status}"))
                };
                health.with_answer(Answer::new(code, head))
            }
            Ok((Err(error), _)) => Health::unhealthy(format!("{self}: {error}")),
            Err(_) => Health::unhealthy(format!("{self} did not end within {:?}", self.limit)),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_exit_code_is_the_verdict_and_the_port_is_filled_in() {
        let check = CommandCheck::new("/bin/sh")
            .with_arg("-c")
            .with_arg("echo seen {port} $PORT; test {port} = 81");
        let good = check.probe(&Endpoint::loopback(81)).await;
        assert!(good.is_healthy(), "{good}");
        assert_eq!(good.answer().unwrap().body_head, "seen 81 81\n");
        let bad = check.probe(&Endpoint::loopback(82)).await;
        assert!(!bad.is_healthy());
        assert_eq!(bad.answer().unwrap().status, 1);
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_unhealthy() {
        let check = CommandCheck::new("/bin/sleep")
            .with_arg("1000")
            .with_limit(Duration::from_millis(50));
        let health = check.probe(&Endpoint::loopback(1)).await;
        assert!(health.summary().contains("did not end"), "{health}");
    }
}
