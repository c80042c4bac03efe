use pipeline_core::{Environment, Executor, Process, Reporter, Run, step::ErasedStep};

fn shared<T: ?Sized + Send + Sync + std::fmt::Debug>() {}
fn owned<T: ?Sized + Send + std::fmt::Debug>() {}

#[test]
fn every_seam_has_an_object_form() {
    shared::<dyn Executor>();
    shared::<dyn Environment>();
    shared::<dyn ErasedStep>();
    owned::<dyn Process>();
    owned::<dyn Reporter>();
    owned::<Run>();
}
