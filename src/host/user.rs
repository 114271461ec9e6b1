//! Looks up the number of a user.

use std::path::Path;

use super::HostSource;

/// The user that Santa's sync service runs as on a Mac: `nobody`, -2.
const MACOS_NOBODY: u32 = 0xffff_fffe;

/// What Linux has for `nobody` where no file names it.
const LINUX_NOBODY: u32 = 65_534;

/// Returns the number of a user given by name or number; `None` if it does not exist.
pub fn user_id(user: &str, host: &dyn HostSource) -> Option<u32> {
    if let Ok(number) = user.parse() {
        return Some(number);
    }
    let is_macos = host.uname().is_macos();
    // As with groups: Active Directory names users `DOMAIN\user`.
    let marks = if is_macos { "_-. \\" } else { "_-. " };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    if user.is_empty() || user.starts_with('-') || !user.chars().all(is_plain) {
        return None;
    }
    let file = host.read(Path::new("/etc/passwd")).ok();
    let local = file.and_then(|bytes| in_password_file(&String::from_utf8_lossy(&bytes), user));
    local.or_else(|| {
        if is_macos {
            let args = ["-q", "user", "-a", "name", user];
            let answer = host.run("/usr/bin/dscacheutil", &args).ok()?;
            in_directory(&String::from_utf8_lossy(&answer))
        } else {
            let answer = host.run("/usr/bin/getent", &["passwd", user]).ok()?;
            in_password_file(&String::from_utf8_lossy(&answer), user)
        }
    })
}

/// Returns the name of the user of this number; `None` if there is none.
pub fn user_name(id: u32, host: &dyn HostSource) -> Option<String> {
    let number = id.to_string();
    let file = host.read(Path::new("/etc/passwd")).ok();
    let local = file.and_then(|bytes| name_of(&String::from_utf8_lossy(&bytes), id));
    local.or_else(|| {
        if host.uname().is_macos() {
            let args = ["-q", "user", "-a", "uid", &number];
            let answer = host.run("/usr/bin/dscacheutil", &args).ok()?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            answer.lines().find_map(|line| Some(line.strip_prefix("name:")?.trim().to_owned()))
        } else {
            let answer = host.run("/usr/bin/getent", &["passwd", &number]).ok()?;
            name_of(&String::from_utf8_lossy(&answer), id)
        }
    })
}

/// Of lines `name:password:number:...`.
fn name_of(text: &str, id: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (number(fields.nth(1)?) == Some(id)).then(|| name.to_owned())
    })
}

/// Returns the number of the user that the authorizer's sync client runs as, in
/// the relay's eyes: `nobody`.
#[must_use]
pub fn nobody_id(host: &dyn HostSource) -> u32 {
    if host.uname().is_macos() {
        return MACOS_NOBODY;
    }
    user_id("nobody", host).unwrap_or(LINUX_NOBODY)
}

/// Of lines `name:password:number:...`. A Mac writes -2 as such.
fn in_password_file(text: &str, user: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| number(fields.nth(1)?))?
    })
}

/// Of lines `uid: number` among others.
fn in_directory(text: &str) -> Option<u32> {
    text.lines().find_map(|line| number(line.strip_prefix("uid:")?))
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    text.parse().ok().or_else(|| Some(text.parse::<i32>().ok()?.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_12_a_user_is_found_by_name_or_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nnobody:*:-2:-2:U:/:/usr/bin/false\n\
                      santa:x:notanumber:1::/:/bin/sh\nsanta:x:77:77::/:/bin/sh";
        assert_eq!(in_password_file(passwd, "root"), Some(0));
        assert_eq!(in_password_file(passwd, "nobody"), Some(MACOS_NOBODY));
        assert_eq!(in_password_file(passwd, "santa"), Some(77));
        assert_eq!(in_password_file(passwd, "roo"), None);
        assert_eq!(in_directory("name: a\nuid: 501\ngid: 20\n"), Some(501));
        assert_eq!(in_directory(""), None);
        assert_eq!(name_of(passwd, 77).as_deref(), Some("santa"));
        assert_eq!(name_of(passwd, MACOS_NOBODY).as_deref(), Some("nobody"));
        assert_eq!(name_of(passwd, 1), None);
        let host = crate::host::SystemHost;
        assert_eq!((user_id("root", &host), user_id("4711", &host)), (Some(0), Some(4711)));
        assert_eq!(user_name(0, &host).as_deref(), Some("root"));
        for none in ["", "-x", "no:body", "no such user", "../etc"] {
            assert_eq!(user_id(none, &host), None, "{none}");
        }
        assert!(nobody_id(&host) >= LINUX_NOBODY);
    }
}
