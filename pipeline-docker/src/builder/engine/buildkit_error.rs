//! What BuildKit's words for a failure mean.

use super::failure::{code_after, instruction_failed};
use crate::builder::BuildError;
use crate::engine::{EngineError, EngineErrorKind};

/// `failed` is the vertex that failed, if one did, with its last lines.
#[cfg_attr(
    not(any(feature = "buildkit", test)),
    expect(dead_code, reason = "only BuildKit talks like this")
)]
pub(super) fn classify(
    message: &str,
    syntax: Option<&str>,
    failed: Option<(String, Vec<String>)>,
) -> BuildError {
    let low = message.to_ascii_lowercase();
    if let Some(frontend) = syntax
        && is_about_frontend(message, frontend, failed.as_ref().map(|(name, _)| name))
    {
        return BuildError::Frontend {
            frontend: frontend.to_owned(),
            message: message.trim().to_owned(),
        };
    }
    let code = code_after(message, "exit code:");
    let said = EngineError::said("build the image", None, message);
    if code.is_none() && said.kind() == EngineErrorKind::DiskFull {
        return BuildError::Engine(said);
    }
    if code.is_none()
        && [
            "dockerfile parse error",
            "target stage",
            "unknown instruction",
            "failed to parse",
            "failed to read dockerfile",
            "dockerfile.v0: failed to read",
            "no build stage",
        ]
        .iter()
        .any(|part| low.contains(part))
    {
        return BuildError::Dockerfile {
            message: message.trim().to_owned(),
        };
    }
    let (instruction, last) = failed.unwrap_or_else(|| ("the build".to_owned(), Vec::new()));
    instruction_failed(instruction, message, code, last)
}

/// The frontend is fetched before anything else, in a piece of work of its own where there is any.
fn is_about_frontend(message: &str, frontend: &str, failed: Option<&String>) -> bool {
    match failed {
        Some(name) => name.contains(frontend) && name.contains("resolve image config"),
        None => {
            let kind = EngineError::said("fetch the frontend", None, message).kind();
            message.contains("gateway.v0")
                && matches!(
                    kind,
                    EngineErrorKind::RegistryUnreachable
                        | EngineErrorKind::Unauthorized
                        | EngineErrorKind::NotFound
                )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_failures() {
        let failed = || Some(("[2/2] RUN exit 4".to_owned(), vec!["last".to_owned()]));
        let text = "executor failed running [/bin/sh -c exit 4]: exit code: 4";
        let BuildError::Instruction {
            instruction,
            exit_code,
            last_lines,
            ..
        } = classify(text, Some("docker/dockerfile:1"), failed())
        else {
            panic!("an instruction failed")
        };
        assert_eq!(instruction, "[2/2] RUN exit 4");
        assert_eq!((exit_code, last_lines), (Some(4), vec!["last".to_owned()]));
        let text = "failed to solve with frontend dockerfile.v0: failed to solve with frontend gateway.v0: failed to do request: Head \"https://registry-1.docker.io/v2/docker/dockerfile/manifests/1\": dial tcp: lookup registry-1.docker.io: no such host";
        assert!(matches!(
            classify(text, Some("docker/dockerfile:1"), None),
            BuildError::Frontend { .. }
        ));
        assert!(matches!(classify(text, None, None), BuildError::Engine(_)));
        let text = "failed to solve with frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error line 2: unknown instruction: FOO";
        assert!(matches!(
            classify(text, None, None),
            BuildError::Dockerfile { .. }
        ));
    }
}
