//! Bases and images behind a password.

use std::sync::Arc;

use pipeline_core::{Secret, error_chain};
use pipeline_docker::ImageReference;
use pipeline_docker::builder::{
    BuildError, BuildNetwork, BuildRequest, DockerfileSpec, EngineBuilder, ImageBuilder,
    ImageOutput,
};
use pipeline_docker::credentials::{Anonymous, Credentials, StaticCredentials};
use pipeline_docker::engine::{Engine, EngineErrorKind};

use crate::build::BACKENDS;
use crate::server::{Server, Setup};
use crate::support::{Images, context, run, unique, write};

/// Wherever it begins in what is encoded, the standard alphabet's two odd characters come out of it.
/// Engines drop credentials with those in them, without a word.
const PASSWORD: &str = ">>>>>>-rather-secret-??????";

fn request(spec: DockerfileSpec, name: &ImageReference) -> BuildRequest {
    let spec = spec.with_network(BuildNetwork::None);
    BuildRequest::dockerfile(spec, ImageOutput::engine(name.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine, docker-registry, htpasswd and busybox-static"]
async fn a_private_base_is_built_on_and_the_result_pushed() {
    let server = Server::start_with(&Setup {
        password: Some(("robot".to_owned(), PASSWORD.to_owned())),
        ..Setup::default()
    });
    let name = |what: &str| -> ImageReference {
        format!("{}/team/{what}:1", server.address).parse().unwrap()
    };
    let found = || {
        let password = Credentials::password("robot", Secret::new(PASSWORD));
        StaticCredentials::new(&server.address, password)
    };
    let engine = Engine::from_env().await.unwrap();
    let builder = EngineBuilder::new(engine.clone());
    for backend in BACKENDS {
        // Of its own, so that the engine has nothing of it.
        let base = name(&unique("base"));
        let mark = unique("mark");
        let folder = context(&format!("LABEL mark={mark}\nRUN echo {mark} > /mark"));
        let images = Images(vec![base.to_string()]);
        builder
            .build(&request(DockerfileSpec::new(folder.path()), &base))
            .await
            .unwrap();
        let error = engine.push(&base, &Anonymous).await.unwrap_err();
        assert_eq!(error.kind(), EngineErrorKind::Unauthorized, "{error}");
        let pushed = engine.push(&base, &found()).await.unwrap();
        assert!(!pushed.anonymous);
        drop(images);

        // Wherever the image is named, its registry hears the password.
        let files = [
            format!("FROM {base}\nCOPY app /app\n"),
            format!(
                "ARG HOST\nARG BASE=$HOST/{}\nFROM $BASE\nCOPY app /app\n",
                tail(&base)
            ),
            format!("FROM scratch\nCOPY --from={base} / /\nCOPY app /app\n"),
        ];
        for file in files {
            let app = tempfile::tempdir().unwrap();
            let command = "CMD [\"/bin/busybox\", \"cat\", \"/mark\", \"/app\"]";
            write(app.path(), "Dockerfile", &format!("{file}{command}\n"));
            write(app.path(), "app", "on top");
            let result = name(&unique("app"));
            let images = Images(vec![result.to_string(), base.to_string()]);
            let builder = EngineBuilder::new(engine.clone()).with_backend(*backend);
            let spec = DockerfileSpec::new(app.path()).with_arg("HOST", &*server.address);
            let request = request(spec, &result);
            let error = builder.build(&request).await.unwrap_err();
            let text = error_chain(&error);
            let BuildError::Engine(error) = error else {
                panic!("{file}: {text}")
            };
            assert_eq!(error.kind(), EngineErrorKind::Unauthorized, "{text}");

            let builder = builder.with_credentials(Arc::new(found()));
            let built = builder.build(&request).await;
            assert!(
                built.is_ok(),
                "{file}: {}",
                error_chain(&built.unwrap_err())
            );
            assert_eq!(run(&result.to_string(), &[]), format!("{mark}\non top"));
            engine.push(&result, &found()).await.unwrap();
            drop(images);
        }
    }
}

/// Repository and tag.
fn tail(name: &ImageReference) -> String {
    format!("{}:{}", name.repository(), name.tag().unwrap())
}
