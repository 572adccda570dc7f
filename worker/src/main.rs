//! The worker's executable.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = groundswell_worker::spawner_main_if_asked() {
        return code;
    }
    ExitCode::SUCCESS
}
