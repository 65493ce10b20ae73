//! Ends of children, with signals as numbers: real-time signals end processes too, and `nix` has no names for them.

use std::io;

use nix::errno::Errno;
use nix::unistd::Pid;

/// A child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub pid: Pid,
    /// Its exit code, 128+n for signal n.
    pub code: i32,
}

/// Which children are looked at.
#[derive(Clone, Copy, Debug)]
pub enum Whose {
    /// Any child's end.
    Any,
    /// This child's.
    One(Pid),
}

/// Takes the exit status of a child, as waitid(2) does; `flags` beside WEXITED. None: none has ended, and WNOHANG was
/// given.
pub fn take(whose: Whose, flags: libc::c_int) -> io::Result<Option<Ended>> {
    let (kind, id) = match whose {
        Whose::Any => (libc::P_ALL, 0),
        Whose::One(pid) => (libc::P_PID, pid.as_raw() as libc::id_t),
    };
    // SAFETY: plain data, for which zeros are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is live and of the type asked for.
        match Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | flags) }) {
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid(2) has filled in the fields of SIGCHLD, or left the PID zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let code = if info.si_code == libc::CLD_EXITED { status } else { 128 + status };
    Ok(Some(Ended { pid: Pid::from_raw(pid), code }))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[expect(clippy::zombie_processes, reason = "their ends are what is taken here")]
    fn every_end_has_its_code() {
        for (script, code) in [("exit 3", 3), ("kill -9 $$", 137), ("kill -40 $$", 168)] {
            let child = Command::new("sh").args(["-c", script]).spawn().expect("started");
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a PID"));
            let ended = take(Whose::One(pid), 0).expect("ended");
            assert_eq!(ended, Some(Ended { pid, code }), "{script}");
        }
        let mut going = Command::new("sleep").arg("100").spawn().expect("started");
        let pid = Pid::from_raw(i32::try_from(going.id()).expect("a PID"));
        assert_eq!(take(Whose::One(pid), libc::WNOHANG).expect("asked"), None);
        going.kill().expect("killed");
        going.wait().expect("ended");
    }
}
