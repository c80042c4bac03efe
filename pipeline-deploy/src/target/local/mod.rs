//! Releases as processes of this machine, behind one address that never changes.
//!
//! A [`LocalTarget`] keeps everything in one folder. A small *supervisor* process, which is
//! the embedding program started again in that role ([`supervise`]), owns the address and
//! the release's processes and outlives the program that deployed. It gives new connections
//! to the live release, and at a switch lets the former one finish what it had begun.
//!
//! ```text
//! <folder>/current -> releases/<release>   the live release
//!          releases/<release>/             its files; <release>.json beside it once complete
//!          shared/                         state that outlives releases
//!          logs/<release>/                 output of preparation commands and of the server
//!          launch/<release>.json           how to start it again, secrets included; mode 0600
//!          state.json                      port and live release
//!          run/                            control socket, supervisor's lock and log; mode 0700
//!          deploy.lock
//! ```
//!
//! # State that outlives a release
//! Every release is a fresh copy of the application's folder. What must survive is declared
//! with [`LocalApp::with_shared`] (a link to `shared/` takes its place in every release, and
//! the first release's own file or folder seeds it), or is placed by the application itself
//! below the folder that it finds in `SHARED_DIR`.
//!
//! # What a process is given
//! Nothing is inherited. Its environment is `PATH` (`/usr/local/bin:/usr/bin:/bin`), `RELEASE_ID`,
//! `RELEASE_DIR`, `SHARED_DIR`, for the server `PORT`, what [`LocalApp::with_env`] says, which wins, and two tags by which the supervisor finds
//! its processes again. The server must listen on `127.0.0.1` and `PORT`.
//!
//! # Limits
//! The address is plain TCP on the loopback interface; other users of the machine can reach
//! it. While no supervisor runs (killed, or the machine was restarted), nothing serves until
//! the next deploy or [`LocalTarget::ensure_running`].

mod app;
mod apply;
mod client;
mod folders;
mod instance;
mod launch;
mod lock_file;
mod plan;
mod protocol;
mod prune;
mod supervisor;
mod supervisor_command;
mod target;
mod tree;
mod unfit;

pub use app::{AppCommand, LocalApp, SharedKind, SharedPath};
pub use instance::{LocalInstance, LocalStatus};
pub use supervisor::{SupervisorEnd, SupervisorError, supervise};
pub use supervisor_command::SupervisorCommand;
pub use target::LocalTarget;
