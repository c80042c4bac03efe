//! [`ImageConfig`]: what an image runs and what it is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Digest, Platform};

/// The configuration blob of an image.
///
/// Fields that are not modelled here are kept and written back, so a configuration taken from a
/// base image loses nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// How a container of it runs.
    #[serde(default)]
    pub config: RunConfig,
    /// The uncompressed layers.
    pub rootfs: RootFs,
    /// How each layer came about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// Whatever else the document holds.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl ImageConfig {
    /// A configuration without layers.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self {
            created: None,
            author: None,
            platform,
            config: RunConfig::default(),
            rootfs: RootFs::default(),
            history: Vec::new(),
            other: BTreeMap::new(),
        }
    }
}

/// Seconds since 1970 as configurations and annotations write them; `None` beyond the year 9999.
pub(crate) fn time_text(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.to_string())
}

/// How a container of an image runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct RunConfig {
    /// User, or `user:group`, names or numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports the program listens on, such as `8000/tcp`.
    #[serde(default, with = "set", skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// Environment, `NAME=value`, in order.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// The program that always runs.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// Arguments of the entry point, or the command when there is none.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// How to find out whether the program is well. Docker's extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Folders that are volumes.
    #[serde(default, with = "set", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// The working folder.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Whatever else the document holds.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl RunConfig {
    /// Sets one environment variable, replacing an earlier one of the same name in its place.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let same_name =
            |text: &String| text.split_once('=').map_or(text.as_str(), |(key, _)| key) == name;
        match self.env.iter().position(same_name) {
            Some(place) => self.env[place] = entry,
            None => self.env.push(entry),
        }
    }
}

/// A health check run by the engine. Times are nanoseconds, 0 means the engine's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct HealthConfig {
    /// `["CMD", program, arguments…]`, `["CMD-SHELL", line]` or `["NONE"]`.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub test: Vec<String>,
    /// Time between two probes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time one probe may take.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// How many failures in a row make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Whatever else the document holds.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The uncompressed layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

/// How one layer came about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// By what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether this entry has no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes the field by reference"
)]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes an empty list or map as `null`.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Go writes a set as an object of empty objects.
mod set {
    use std::collections::BTreeMap;

    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        names: &[String],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort();
        sorted.dedup();
        let mut map = serializer.serialize_map(Some(sorted.len()))?;
        for name in sorted {
            map.serialize_entry(name, &serde_json::Map::new())?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<String>, D::Error> {
        let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_survive() {
        let text = r#"{"architecture":"amd64","os":"linux","container":"abc",
            "config":{"Env":["A=1"],"OnBuild":null,"ArgsEscaped":true,"ExposedPorts":{"80/tcp":{}},"Cmd":null},
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert!(config.config.cmd.is_empty());
        let back = serde_json::to_value(&config).unwrap();
        assert_eq!(back["container"], "abc");
        assert_eq!(back["config"]["ArgsEscaped"], true);
        assert_eq!(
            back["config"]["ExposedPorts"],
            serde_json::json!({"80/tcp": {}})
        );
        assert_eq!(back["os"], "linux");
    }

    #[test]
    fn environment_is_replaced_in_place() {
        let mut run = RunConfig {
            env: vec!["PATH=/bin".into(), "B=2".into()],
            ..RunConfig::default()
        };
        run.set_env("PATH", "/usr/bin");
        run.set_env("C", "");
        assert_eq!(run.env, ["PATH=/usr/bin", "B=2", "C="]);
    }
}
