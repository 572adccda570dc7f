//! The `coordinator` binary: the command line, and the services behind it.
//!
//! ```text
//! cli       the commands; `cli/parts.rs` is where they meet the rest of Groundswell
//! context   where NATS and the object store are: flags, environment, configuration files
//! local     everything in one process: nats-server, coordinator, worker, object store in a directory
//! ```

mod cli;
mod context;
mod local;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The embedded worker starts this binary again to make namespaces; that copy needs no runtime.
    if let Some(code) = cli::parts::asked_to_be_a_helper() {
        return code;
    }
    let args = match cli::args::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    // Children that die with this process have to be forked by its main thread, so that thread runs `block_on`.
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => return cli::could_not_begin(&err),
    };
    runtime.block_on(cli::main(args))
}
