//! How Santa is to tell this program from others.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::host::HostSource;
use crate::relay::profiles::ProgramRule;

/// The rule that allows a program, by who signed it or else by its hash.
pub(in crate::cli) fn program_rule(
    program: &Path,
    host: &dyn HostSource,
) -> io::Result<ProgramRule> {
    if host.uname().is_macos()
        && let Some(path) = program.to_str()
        && let Ok(output) = host.run("/usr/bin/codesign", &["-d", "-r-", path])
        && let Some(rule) = ProgramRule::of_requirement(&String::from_utf8_lossy(&output))
    {
        return Ok(rule);
    }
    let mut file = File::open(program)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(ProgramRule::Binary(crate::model::text::hex(&hasher.finalize()))),
            length => hasher.update(buffer.get(..length).unwrap_or_default()),
        }
    }
}
