//! `skep whoami`: a small HTTP server that says which container answered, for demonstrations and tests.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Bytes of a request head that are read at most.
const MAX_HEAD: u64 = 64 * 1024;

/// Serves until SIGTERM. The one argument is the port (default 80).
pub fn main(args: &[OsString]) -> ExitCode {
    let port = match args.first().map(|a| a.to_string_lossy().parse::<u16>()) {
        None => 80,
        Some(Ok(port)) => port,
        Some(Err(_)) => {
            eprintln!("skep whoami: {:?} is not a port number", args[0]);
            return ExitCode::from(125);
        }
    };
    // PID 1 has no default action for signals: without a handler SIGTERM would be ignored.
    let exit = nix::sys::signal::SigHandler::Handler(on_signal);
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGINT] {
        // SAFETY: the handler only calls _exit, which is async-signal-safe.
        if let Err(e) = unsafe { nix::sys::signal::signal(signal, exit) } {
            eprintln!("skep whoami: handle {signal}: {e}");
            return ExitCode::FAILURE;
        }
    }
    // Both families on one socket, or IPv4 alone where there is no IPv6.
    let listener = match TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))) {
        Ok(listener) => listener,
        Err(e) => {
            eprintln!("skep whoami: listen on port {port}: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("whoami listening on port {port}");
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                std::thread::spawn(move || {
                    if let Err(e) = answer(stream) {
                        eprintln!("request: {e}");
                    }
                });
            }
            Err(e) => eprintln!("accept: {e}"),
        }
    }
    ExitCode::SUCCESS
}

extern "C" fn on_signal(_: i32) {
    // SAFETY: _exit is async-signal-safe.
    unsafe { libc::_exit(0) }
}

/// Answers one request, and further ones on the same connection as long as each asks for that.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(&stream);
    loop {
        let mut head = String::new();
        let mut limited = Read::take(&mut reader, MAX_HEAD);
        while limited.read_line(&mut head)? > 2 {}
        let keep = head.lines().any(|l| l.eq_ignore_ascii_case("connection: keep-alive"));
        if head.is_empty() {
            return Ok(());
        }
        answer_one(&stream, &head, if keep { "keep-alive" } else { "close" })?;
        if !keep {
            return Ok(());
        }
    }
}

fn answer_one(stream: &TcpStream, head: &str, connection: &str) -> std::io::Result<()> {
    let request = head.lines().next().unwrap_or_default();
    let shown = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let (own, peer) = (shown(stream.local_addr()?), shown(stream.peer_addr()?));
    println!("{peer} {request}");
    let hostname = nix::unistd::gethostname().map_err(std::io::Error::from)?;
    let body = format!(
        "Hostname: {}\nIP: {}\nRemoteAddr: {}\n{}\n",
        hostname.to_string_lossy(),
        own.ip(),
        peer,
        head.trim_end()
    );
    let mut out = stream;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
        body.len()
    );
    out.write_all(answer.as_bytes())
}
