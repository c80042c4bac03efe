pipeline_core::executor_contract!(async {
    pipeline_core::LocalExecutor::new().with_env(crate::environment())
});
