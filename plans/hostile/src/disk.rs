//! Fills directories.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::Result;

/// Writes without end, at a rate that a host can bear.
pub fn fill(directory: &Path) -> Result<()> {
    let mut file = File::create(directory.join("full"))?;
    loop {
        file.write_all(&[7; 1 << 20])?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes until there is no room.
pub fn fill_to_the_brim(directory: &Path) -> Result<()> {
    let mut file = File::create(directory.join("full"))?;
    for _ in 0..2048 {
        match file.write_all(&[7; 1 << 20]) {
            Err(err) if err.kind() == ErrorKind::StorageFull => return Ok(()),
            done => done?,
        }
    }
    Err(format!("2 GiB fit into {}", directory.display()).into())
}

pub fn sparse(outputs: &Path) -> Result<()> {
    Ok(File::create(outputs.join("sparse"))?.set_len(1 << 40)?)
}

/// Everything that is no ordinary file, and one that is.
pub fn links(outputs: &Path) -> Result<()> {
    let at = |name: &str| outputs.join(name);
    fs::write(at("kept"), "an ordinary file\n")?;
    symlink("/etc/passwd", at("passwd"))?;
    symlink("../../../../../../../../etc/passwd", at("upwards"))?;
    symlink("/", at("root"))?;
    symlink("..", at("parent"))?;
    symlink("/proc/self/environ", at("environment"))?;
    fs::write(at("first-name"), "one file\n")?;
    fs::hard_link(at("first-name"), at("second-name"))?;
    // Of a file that is not its own; the kernel may refuse it.
    let _ = fs::hard_link("/etc/hosts", at("hosts"));
    fs::write(at("line\nbreak"), "odd\n")?;
    fs::write(at("back\\slash"), "odd\n")?;
    let pipe = CString::new(at("pipe").display().to_string())?;
    let device = CString::new(at("disk").display().to_string())?;
    // SAFETY: the paths outlive the calls. That there is no right to make a device is hoped for.
    unsafe {
        libc::mkfifo(pipe.as_ptr(), 0o666);
        if libc::mknod(device.as_ptr(), libc::S_IFBLK | 0o666, libc::makedev(254, 0)) == 0 {
            return Err("it could make a device".into());
        }
    }
    Ok(())
}

pub fn files(outputs: &Path) -> Result<()> {
    for number in 0..100_000 {
        fs::write(outputs.join(format!("file-{number}")), "x")?;
    }
    Ok(())
}

/// Deeper than any path can say.
pub fn deep(outputs: &Path) -> Result<()> {
    std::env::set_current_dir(outputs)?;
    for _ in 0..20_000 {
        fs::create_dir("deep")?;
        std::env::set_current_dir("deep")?;
    }
    Ok(std::env::set_current_dir("/")?)
}
