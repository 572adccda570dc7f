//! Runs `nft` in the calling thread's network namespace.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write as _};
use std::process::{Command, Stdio};

use super::NatError;

/// Where administration programs are; an ordinary user's `PATH` may lack it.
const PROGRAMS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Has the kernel take a ruleset, as a whole or not at all.
pub(in crate::network) fn load(ruleset: &str) -> Result<(), NatError> {
    run("nft", &["-f", "-"], ruleset).map(drop)
}

/// What the kernel says of a table's counters, in JSON.
pub(in crate::network) fn counters(table: &str) -> Result<String, NatError> {
    let list: Vec<&str> =
        ["--json", "list", "counters", "table"].into_iter().chain(table.split(' ')).collect();
    run("nft", &list, "")
}

fn run(program: &str, arguments: &[&str], ruleset: &str) -> Result<String, NatError> {
    let mut nft = Command::new(program)
        .args(arguments)
        .env("PATH", path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_started)?;
    let mut stdin = nft.stdin.take().expect("stdin is piped");
    // A program that has ended says why below.
    let _ended = stdin.write_all(ruleset.as_bytes());
    drop(stdin);
    let done = nft.wait_with_output().map_err(NatError::host("wait for `nft`"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
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
        let err = run("nft-that-nobody-has", &[], "").expect_err("it is missing");
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
