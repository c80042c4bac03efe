//! The contract that every executor keeps: once with a shared job folder, once with a copied one.

mod shared {
    use pipeline_docker::container::{ContainerSpec, JobFolder};

    use crate::fixture;

    pipeline_core::executor_contract!(
        #[ignore = "needs a Docker engine and busybox-static"]
        async {
            let spec = ContainerSpec::new(fixture::busybox()).with_sharing(JobFolder::Shared);
            fixture::executor(spec).await
        }
    );
}

mod copied {
    use pipeline_docker::container::{ContainerSpec, JobFolder};

    use crate::fixture;

    pipeline_core::executor_contract!(
        #[ignore = "needs a Docker engine and busybox-static"]
        async {
            let spec = ContainerSpec::new(fixture::busybox()).with_sharing(JobFolder::Copied);
            fixture::executor(spec).await
        }
    );
}
