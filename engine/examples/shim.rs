//! The helper executable for tests and measurements: what the product's binary does for `shim` and `container-init`.

use std::ffi::OsString;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let code = match args.next() {
        Some(word) if word == "shim" => skep_engine::shim::shim_main(&args.collect::<Vec<OsString>>()),
        Some(word) if word == "container-init" => skep_engine::init_main(&args.collect::<Vec<OsString>>()),
        _ => {
            eprintln!("usage: shim shim BUNDLE");
            2
        }
    };
    std::process::exit(code);
}
