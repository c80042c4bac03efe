//! Laying what was asked for over what the base says.

use std::time::Duration;

use super::{BuildError, ConfigSpec, HealthcheckSpec};
use crate::oci::{HealthConfig, RunConfig};

pub(super) fn apply(spec: &ConfigSpec, run: &mut RunConfig) -> Result<(), BuildError> {
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(
                "environment variable",
                name,
                "a name has no = and is not empty",
            ));
        }
        run.set_env(name, value);
    }
    if let Some(entrypoint) = &spec.entrypoint {
        run.entrypoint.clone_from(entrypoint);
        run.cmd.clear();
    }
    if let Some(cmd) = &spec.cmd {
        run.cmd.clone_from(cmd);
    }
    if let Some(user) = &spec.user {
        run.user.clone_from(user);
    }
    if let Some(workdir) = &spec.workdir {
        if !workdir.starts_with('/') {
            return Err(invalid(
                "workdir",
                workdir,
                "a path in an image begins with a slash",
            ));
        }
        run.working_dir.clone_from(workdir);
    }
    for port in &spec.ports {
        let port = port_text(port)?;
        if !run.exposed_ports.contains(&port) {
            run.exposed_ports.push(port);
        }
    }
    for volume in &spec.volumes {
        if !volume.starts_with('/') {
            return Err(invalid(
                "volume",
                volume,
                "a path in an image begins with a slash",
            ));
        }
        if !run.volumes.contains(volume) {
            run.volumes.push(volume.clone());
        }
    }
    run.labels.extend(spec.labels.clone());
    if let Some(signal) = &spec.stop_signal {
        run.stop_signal = Some(signal.clone());
    }
    if let Some(check) = &spec.healthcheck {
        run.healthcheck = Some(health(check)?);
    }
    Ok(())
}

fn invalid(field: &'static str, value: &str, why: &'static str) -> BuildError {
    BuildError::Invalid {
        field,
        value: value.to_owned(),
        why,
    }
}

/// `8000` and `8000/udp` in the form of the configuration.
fn port_text(port: &str) -> Result<String, BuildError> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let number: Option<u16> = number.parse().ok().filter(|number| *number != 0);
    match number {
        Some(number) if matches!(protocol, "tcp" | "udp" | "sctp") => {
            Ok(format!("{number}/{protocol}"))
        }
        _ => Err(invalid(
            "port",
            port,
            "expected a number from 1 to 65535, then maybe /tcp, /udp or /sctp",
        )),
    }
}

fn health(check: &HealthcheckSpec) -> Result<HealthConfig, BuildError> {
    if check.command.is_empty() {
        return Err(invalid("health check", "", "it needs a program"));
    }
    let nanoseconds = |time: Duration| {
        i64::try_from(time.as_nanos())
            .map_err(|_| invalid("health check", &format!("{time:?}"), "the time is too long"))
    };
    let mut test = vec!["CMD".to_owned()];
    test.extend(check.command.iter().cloned());
    Ok(HealthConfig {
        test,
        interval: nanoseconds(check.interval)?,
        timeout: nanoseconds(check.timeout)?,
        start_period: nanoseconds(check.start_period)?,
        retries: i64::from(check.retries),
        ..HealthConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laid_over_the_base() {
        let mut run = RunConfig {
            env: vec!["PATH=/bin".into()],
            cmd: vec!["sh".into()],
            exposed_ports: vec!["80/tcp".into()],
            ..RunConfig::default()
        };
        let spec = ConfigSpec::default()
            .with_env("PATH", "/usr/bin")
            .with_entrypoint(["gunicorn"])
            .with_port("8000")
            .with_port("80");
        apply(&spec, &mut run).unwrap();
        assert_eq!(run.env, ["PATH=/usr/bin"]);
        assert_eq!(
            (run.entrypoint, run.cmd),
            (vec!["gunicorn".to_owned()], vec![])
        );
        assert_eq!(run.exposed_ports, ["80/tcp", "8000/tcp"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for spec in [
            ConfigSpec::default().with_port("0"),
            ConfigSpec::default().with_port("80/http"),
            ConfigSpec::default().with_env("A=B", "c"),
            ConfigSpec::default().with_workdir("app"),
            ConfigSpec::default().with_healthcheck(HealthcheckSpec::default()),
        ] {
            assert!(apply(&spec, &mut RunConfig::default()).is_err(), "{spec:?}");
        }
    }
}
