use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use pipeline_core::executor::{EnvValue, Stdin};
use pipeline_core::{CommandStep, Step};
use serde_json::{Value, json};

use crate::store::Sha256Digest;

/// A step that can say what it does, as data: two steps that say the same do the same to the same
/// files. For other steps a version is given by hand; see
/// [`MemoiseExt::memoised_as`](super::MemoiseExt::memoised_as).
///
/// # Contract
/// Everything that decides what the step does is in it, except files, variables of the job and
/// values of other steps. It holds no secret: it is stored in the clear, to explain a miss.
pub trait Recipe: Step {
    /// What the step does. The fields of an object are compared one by one.
    fn recipe(&self) -> Value;
}

/// Program, arguments, folder, standard input, and its own variables, secret ones by name.
impl Recipe for CommandStep {
    fn recipe(&self) -> Value {
        let command = self.command();
        let env: serde_json::Map<String, Value> = command
            .env
            .iter()
            .map(|(name, value)| {
                let value = match value {
                    EnvValue::Plain(value) => Value::from(value.as_str()),
                    _ => Value::Null,
                };
                (name.clone(), value)
            })
            .collect();
        let stdin = match &command.stdin {
            Stdin::Bytes(bytes) => Some(Sha256Digest::of(bytes)),
            _ => None,
        };
        json!({
            "program": text(&command.program),
            "args": command.args.iter().map(|arg| text(arg)).collect::<Vec<_>>(),
            "folder": text(command.cwd.as_os_str()),
            "env": env,
            "stdin": stdin,
        })
    }
}

/// Without loss: what is not UTF-8 is written in hexadecimal, marked by a NUL, which no argument
/// holds.
fn text(value: &OsStr) -> String {
    match value.to_str() {
        Some(text) => text.to_owned(),
        None => value
            .as_bytes()
            .iter()
            .fold("\0".to_owned(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            }),
    }
}

#[cfg(test)]
mod tests {
    use pipeline_core::{CommandSpec, Secret};

    use super::*;

    #[test]
    fn a_command_says_everything_but_its_secrets() {
        let command = CommandSpec::new("flake8")
            .arg("src")
            .arg(OsStr::from_bytes(b"\xff"))
            .cwd("app")
            .env("MODE", "x")
            .secret_env("TOKEN", Secret::new("hidden-value"))
            .stdin("in");
        let recipe = CommandStep::from(command).recipe();
        assert_eq!(recipe["args"], json!(["src", "\0ff"]));
        assert_eq!(recipe["env"], json!({ "MODE": "x", "TOKEN": null }));
        assert_eq!(recipe["folder"], "app");
        assert_eq!(recipe["stdin"], Sha256Digest::of(b"in").to_string());
        assert!(!recipe.to_string().contains("hidden"));
    }
}
