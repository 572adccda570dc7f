//! Runs `nft` in the calling thread's network namespace.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write as _};
use std::process::{Command, Stdio};

use super::NatError;

/// Where administration programs are; an ordinary user's `PATH` may lack it.
const PROGRAMS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Has the kernel take a ruleset, as a whole or not at all.
pub(super) fn load(ruleset: &str) -> Result<(), NatError> {
    load_by("nft", ruleset)
}

fn load_by(program: &str, ruleset: &str) -> Result<(), NatError> {
    let mut nft = Command::new(program)
        .args(["-f", "-"])
        .env("PATH", path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_started)?;
    let mut stdin = nft.stdin.take().expect("stdin is piped");
    // A program that has ended says why below.
    let _ended = stdin.write_all(ruleset.as_bytes());
    drop(stdin);
    let done = nft.wait_with_output().map_err(NatError::host("wait for `nft`"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(NatError::Ruleset { said: said.trim().to_owned() })
}

fn not_started(err: io::Error) -> NatError {
    if err.kind() == ErrorKind::NotFound {
        return NatError::NoProgram;
    }
    NatError::host("run `nft`")(err)
}

fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(PROGRAMS);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkError;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let err = load_by("nft-that-nobody-has", "").expect_err("it is missing");
        assert!(matches!(err, NatError::NoProgram));
        let said = NetworkError::from(err).to_string();
        assert!(said.contains("`nft`") && said.contains("apt install nftables"), "{said}");
    }

    #[test]
    fn what_nft_says_is_passed_on() {
        // Reading fails before anything is asked of the kernel.
        let err = load("table ip groundswell { nonsense }").expect_err("it is nonsense");
        let said = NetworkError::from(err).to_string();
        assert!(said.contains("nonsense") || said.contains("syntax error"), "{said}");
        assert!(said.contains("apt install nftables"), "{said}");
    }
}
