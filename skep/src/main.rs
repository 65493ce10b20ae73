//! The `skep` binary: all of it is in `cli`, but for what it was built from, so that a commit compiles no more than this.

use std::process::ExitCode;

fn main() -> ExitCode {
    skep_cli::main(skep_cli::Origin {
        commit: option_env!("SKEP_COMMIT").unwrap_or_default(),
        built_at: option_env!("SKEP_BUILT_AT").unwrap_or_default(),
    })
}
