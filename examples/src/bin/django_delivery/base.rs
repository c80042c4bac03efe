//! The bottom of the image.

use async_trait::async_trait;
use pipeline_core::{InputRef, Step, StepContext, StepError, error_chain};
use pipeline_docker::{
    ImageReference,
    builder::BaseImage,
    debian::DebianBase,
    oci::OciLayout,
    registry::{CredentialChain, PullOptions, Registry, RegistryOptions},
};

use crate::{Exit, Stop, release::Base};

/// An interpreter that is looked up in `PATH`, for bases that we did not make.
const ANY_PYTHON: &str = "python3";

/// Finds or makes the base: a folder or layout that was named, a registry reference, or Debian
/// packages; nothing, with a warning, where there is no apt.
#[derive(Debug)]
pub(crate) struct MakeBase {
    pub(crate) wanted: Option<String>,
}

#[async_trait]
impl Step for MakeBase {
    type Output = Base;

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<Base, StepError> {
        match &self.wanted {
            None => debian(cx).await,
            Some(wanted) => {
                // As the caller meant it, not as the job's folder would.
                let path = std::path::absolute(wanted)
                    .map_err(|error| StepError::errored(format!("--base {wanted}"), error))?;
                let found = BaseImage::from_path(&path);
                let is_layout = matches!(found, BaseImage::Layout { .. });
                if path.is_dir() || is_layout {
                    cx.summary(if is_layout {
                        "an OCI layout"
                    } else {
                        "a folder"
                    });
                    return Ok(Base {
                        image: found,
                        python: ANY_PYTHON.into(),
                        version: None,
                    });
                }
                from_registry(cx, wanted).await
            }
        }
    }
}

async fn debian(cx: &StepContext) -> Result<Base, StepError> {
    match DebianBase::python(cx.data_dir().join("debian"))
        .prepare()
        .await
    {
        Ok(root) => {
            let packages = root.packages.len();
            let made = if root.reused {
                "kept from before"
            } else {
                "made now"
            };
            cx.summary(format!("{packages} Debian packages, {made}"));
            let (python, version) = match root.python {
                Some(found) => (found.path, Some(found.version)),
                None => (ANY_PYTHON.to_owned(), None),
            };
            Ok(Base {
                image: BaseImage::Rootfs(root.path),
                python,
                version,
            })
        }
        Err(error) => {
            cx.warn(format!(
                "the image has an empty base and will not run by itself: {}",
                error_chain(&error)
            ))
            .await;
            cx.summary("empty");
            Ok(Base {
                image: BaseImage::Scratch,
                python: ANY_PYTHON.into(),
                version: None,
            })
        }
    }
}

async fn from_registry(cx: &StepContext, wanted: &str) -> Result<Base, StepError> {
    let reference: ImageReference = wanted.parse().map_err(|error| {
        StepError::failed(format!(
            "--base {wanted} is neither a folder nor an OCI layout nor an image reference: {}",
            error_chain(&error)
        ))
    })?;
    let failed = |error: &dyn std::error::Error| -> String {
        format!("could not pull the base {wanted}: {error}")
    };
    let registry = client().map_err(|Stop(_, message)| StepError::failed(message))?;
    let path = cx
        .data_dir()
        .join("bases")
        .join(pipeline_examples::slug(wanted));
    let layout =
        OciLayout::create(&path).map_err(|error| StepError::errored(failed(&error), error))?;
    let pulled = registry
        .pull(&reference, &layout, &PullOptions::default())
        .await
        .map_err(|error| StepError::errored(format!("could not pull the base {wanted}"), error))?;
    cx.log(format!(
        "{}: {:.1} MB in {:.2}s",
        pulled.manifest.digest,
        pulled.bytes_received as f64 / 1e6,
        pulled.duration.as_secs_f64()
    ))
    .await;
    cx.summary(format!("{wanted} at {}", pulled.manifest.digest));
    let name = Some(pulled.manifest.digest.to_string());
    Ok(Base {
        image: BaseImage::Layout { path, name },
        python: ANY_PYTHON.into(),
        version: None,
    })
}

/// A client with the user's own docker log-ins.
pub(crate) fn client() -> Result<Registry, Stop> {
    let credentials = CredentialChain::from_env().map_err(|error| Stop::new(Exit::Plan, &error))?;
    Registry::new(RegistryOptions::default().with_credentials(credentials))
        .map_err(|error| Stop::new(Exit::Infrastructure, &error))
}
