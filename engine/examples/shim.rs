//! The helper executable for tests and measurements: what the product's binary does for `shim`.

use std::ffi::OsString;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let code = match args.next() {
        Some(word) if word == "shim" => skep_engine::shim::shim_main(&args.collect::<Vec<OsString>>()),
        _ => {
            eprintln!("usage: shim shim BUNDLE");
            2
        }
    };
    std::process::exit(code);
}
