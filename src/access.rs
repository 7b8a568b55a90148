//! What the user a service runs as may do with files: the kernel is asked as that user, and a refusal is put into words.

use rustix::fs::{Access, access};
use rustix::process::{Gid, Uid};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// A user and the groups it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Account {
    /// From /etc/passwd and /etc/group; the service's user is never one of a directory service.
    ///
    /// # Errors
    /// The system's error; `NotFound` where there is no such user.
    pub fn named(name: &str) -> io::Result<Self> {
        let (passwd, group) = (std::fs::read_to_string("/etc/passwd")?, std::fs::read_to_string("/etc/group")?);
        Self::among(name, &passwd, &group)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no user `{name}`")))
    }

    fn among(name: &str, passwd: &str, group: &str) -> Option<Self> {
        let fields = |line: &str| line.split(':').map(ToOwned::to_owned).collect::<Vec<_>>();
        let entry = passwd.lines().map(fields).find(|entry| entry.first().is_some_and(|first| first == name))?;
        let (uid, gid) = (entry.get(2)?.parse().ok()?, entry.get(3)?.parse().ok()?);
        let member = |entry: &Vec<String>| entry.get(3).is_some_and(|all| all.split(',').any(|one| one == name));
        let groups = group.lines().map(fields).filter(member).filter_map(|entry| entry.get(2)?.parse().ok());
        Some(Self { name: name.to_owned(), uid, gid, groups: groups.collect() })
    }

    /// For root: the user of a systemd service, or `usual` where OpenRC is there, whose script starts it so.
    /// `None`: whoever asks.
    pub fn of_service(service: &str, usual: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        if Path::new("/run/systemd/system").exists() {
            let shown =
                Command::new("systemctl").args(["show", "-p", "User", "--value", "--", service]).output().ok()?;
            let name = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
            return Self::named(&name).ok();
        }
        Path::new("/run/openrc/softlevel").exists().then(|| Self::named(usual).ok()).flatten()
    }
}

/// Why a systemd service cannot write below `path` although its user could, with the line that helps; nothing where it
/// can, or where nobody knows. `path` is not the directory that the service manager makes for it.
pub fn refusal_by_service(service: &str, path: &Path) -> Option<String> {
    if !Path::new("/run/systemd/system").exists() {
        return None;
    }
    let properties = "ProtectSystem,ProtectHome,ReadWritePaths,BindPaths";
    let shown = Command::new("systemctl").args(["show", "-p", properties, "--", service]).output().ok()?;
    read_only(service, &String::from_utf8_lossy(&shown.stdout), path)
}

/// By `KEY=value` lines of a unit (systemd.exec(5)).
fn read_only(service: &str, unit: &str, path: &Path) -> Option<String> {
    let value = |key: &str| {
        unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    let strict = value("ProtectSystem") == "strict";
    let homes = ["/home", "/root", "/run/user"].iter().any(|home| path.starts_with(home));
    let hidden = homes && !matches!(value("ProtectHome").as_str(), "no" | "");
    let opened = format!("{} {}", value("ReadWritePaths"), value("BindPaths"));
    // A word may begin with `-` or `+`, and a bind mount be `SOURCE:DESTINATION`.
    let open = opened
        .split_whitespace()
        .map(|word| word.trim_start_matches(['-', '+']))
        .any(|word| word.split(':').any(|place| place.starts_with('/') && path.starts_with(place)));
    ((strict || hidden) && !open).then(|| {
        let at = path.display();
        format!(
            "{at} is closed to the service by its unit: `systemctl edit {service}`, and under [Service] the line \
             `ReadWritePaths={at}`"
        )
    })
}

/// Does the work as that user, or as oneself. Only the thread that does it changes, and it ends with the work.
///
/// # Errors
/// Only root may become somebody else.
pub fn done_as<T: Send>(account: Option<&Account>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some(account) = account else { return Ok(work()) };
    let become_it = || -> io::Result<()> {
        let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_gid(Gid::from_raw(account.gid))?;
        Ok(rustix::thread::set_thread_uid(Uid::from_raw(account.uid))?)
    };
    let run = || become_it().map(|()| work());
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| Err(io::Error::other("the check panicked")))
}

/// What a file is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Read,
    /// A directory whose files are read.
    Search,
    /// A directory in which files are made.
    Fill,
}

/// Why this thread's user cannot have it, with the command that helps; nothing where it can.
pub fn refusal(path: &Path, want: Want) -> Option<String> {
    let mode = match want {
        Want::Read => Access::READ_OK,
        Want::Search => Access::READ_OK | Access::EXEC_OK,
        Want::Fill => Access::WRITE_OK | Access::EXEC_OK,
    };
    let shown = path.display();
    match access(path, mode) {
        Ok(()) if want == Want::Read && path.is_dir() => Some(format!("{shown} is a directory")),
        Ok(()) if want != Want::Read && !path.is_dir() => Some(format!("{shown} is no directory")),
        Ok(()) => None,
        // Nobody, root neither, may execute what has no such bit.
        Err(rustix::io::Errno::ACCESS) if want != Want::Read && path.is_file() => {
            Some(format!("{shown} is no directory"))
        }
        Err(rustix::io::Errno::ACCESS) => Some(denied(path, want)),
        Err(rustix::io::Errno::NOENT) => Some(format!("{shown} does not exist")),
        // A device must come up on a disk that takes nothing.
        Err(rustix::io::Errno::ROFS) => None,
        Err(error) => Some(format!("{shown}: {}", io::Error::from(error))),
    }
}

fn denied(path: &Path, want: Want) -> String {
    let parents: Vec<&Path> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
    let closed = parents.into_iter().rev().find(|parent| access(*parent, Access::EXEC_OK).is_err());
    let user = user_name(rustix::process::geteuid().as_raw());
    let group = name_in("/etc/group", rustix::process::getegid().as_raw());
    let culprit = closed.unwrap_or(path);
    let shown = culprit.display();
    let (who, mode) = std::fs::symlink_metadata(culprit).map_or_else(
        |_| ("others".to_owned(), String::new()),
        |found| {
            let owner = user_name(found.uid());
            let group =
                (found.mode() & 0o040 != 0).then(|| format!(" and the group {}", name_in("/etc/group", found.gid())));
            (format!("{owner}{}", group.unwrap_or_default()), format!(" (mode {:o})", found.mode() & 0o7777))
        },
    );
    match (closed, want) {
        (Some(_), _) => format!(
            "{shown} lets only {who} in{mode}, the service runs as {user}: chgrp {group} {shown} && chmod g+x {shown}"
        ),
        (None, Want::Read | Want::Search) => format!(
            "{shown} is readable by {who} only{mode}, the service runs as {user}: chgrp {group} {shown} && chmod g+r {shown}"
        ),
        (None, Want::Fill) => {
            format!(
                "{shown} belongs to {who}{mode}, the service runs as {user} and must write there: chown {user} {shown}"
            )
        }
    }
}

/// The nearest directory there is must take what is missing below it.
pub fn refusal_to_make(path: &Path) -> Option<String> {
    let there = path.ancestors().find(|parent| parent.as_os_str().is_empty() || parent.exists())?;
    refusal(if there.as_os_str().is_empty() { Path::new(".") } else { there }, Want::Fill)
}

/// Why this thread's user cannot keep its state there: it sets the directory's mode, so it must own it. `given_to`: the
/// service's user, where the service manager makes the directory and gives it to that one.
pub fn refusal_as_state(path: &Path, given_to: Option<&Account>) -> Option<String> {
    match std::fs::metadata(path) {
        Ok(there) if given_to.is_some_and(|account| account.uid != there.uid()) => return None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return given_to.is_none().then(|| refusal_to_make(path)).flatten();
        }
        _ => {}
    }
    if let Some(why) = refusal(path, Want::Fill) {
        return Some(why);
    }
    let me = rustix::process::geteuid();
    let user = user_name(me.as_raw());
    let mut all = std::iter::once(path.to_owned())
        .chain(std::fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())));
    let foreign = all.find_map(|one| {
        let owner = std::fs::symlink_metadata(&one).ok()?.uid();
        (!me.is_root() && owner != me.as_raw()).then_some((one, owner))
    });
    let (one, owner) = foreign?;
    let owner = user_name(owner);
    Some(format!(
        "{} belongs to {owner}, the service runs as {user}: chown -R {user} {}",
        one.display(),
        path.display()
    ))
}

pub fn user_name(uid: u32) -> String {
    name_in("/etc/passwd", uid)
}

/// A number's name in a file whose third field is the number; else the number.
fn name_in(file: &str, number: u32) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_unit_that_closes_a_directory_is_named_with_the_line_that_opens_it() {
        let unit = |more: &str| format!("ProtectSystem=strict\nProtectHome=yes\n{more}");
        let closed = |more: &str, path: &str| read_only("impush.service", &unit(more), Path::new(path));
        let said = closed("ReadWritePaths=\nBindPaths=", "/srv/impush").expect("closed");
        assert!(
            said.contains("systemctl edit impush.service") && said.contains("ReadWritePaths=/srv/impush"),
            "{said}"
        );
        assert!(closed("ReadWritePaths=/var/log -/srv", "/srv/impush").is_none());
        assert!(closed("ReadWritePaths=/srv/imp", "/srv/impush").is_some());
        assert!(closed("BindPaths=/mnt/data:/srv/impush:rbind", "/srv/impush").is_none());
        assert!(read_only("s", "ProtectSystem=full\nProtectHome=yes", Path::new("/srv/impush")).is_none());
        assert!(read_only("s", "ProtectSystem=no\nProtectHome=read-only", Path::new("/home/a/state")).is_some());
    }

    #[test]
    fn an_account_is_read_with_its_groups() {
        let passwd = "root:x:0:0::/:/bin/sh\nimpush:x:990:991::/:/sbin/nologin\n";
        let group = "impush:x:991:\nssl:x:50:a,impush\nother:x:51:impushed\n";
        let found = Account::among("impush", passwd, group).expect("there");
        assert_eq!(found, Account { name: "impush".to_owned(), uid: 990, gid: 991, groups: vec![50] });
        assert_eq!(Account::among("imp", passwd, group), None);
    }

    #[test]
    fn what_another_user_may_not_have_is_named_with_the_command_that_gives_it() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: only root can become somebody else");
        }
        let nobody = Account::named("nobody").expect("every system has it");
        let as_nobody = |work: &(dyn Fn() -> Option<String> + Sync)| done_as(Some(&nobody), work).expect("became it");
        let directory = tempfile::Builder::new().tempdir_in("/tmp").expect("a directory");
        let set =
            |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, "x").expect("written");
        set(&file, 0o600);
        set(directory.path(), 0o700);
        let read = || refusal(&file, Want::Read);
        let closed = as_nobody(&read).expect("the directory is closed");
        assert!(closed.contains("lets only root in") && closed.contains("chmod g+x"), "{closed}");
        set(directory.path(), 0o755);
        let private = as_nobody(&read).expect("the file is private");
        assert!(private.contains("readable by root only") && private.contains("runs as nobody"), "{private}");
        assert!(private.contains("chgrp ") && private.contains("chmod g+r"), "{private}");
        set(&file, 0o644);
        assert_eq!(as_nobody(&read), None);
        let state = as_nobody(&|| refusal_as_state(directory.path(), None)).expect("not its own");
        assert!(state.contains("chown nobody"), "{state}");
        let made = as_nobody(&|| refusal_to_make(&directory.path().join("a/b"))).expect("cannot be made");
        assert!(made.contains("must write there"), "{made}");
        std::os::unix::fs::chown(directory.path(), Some(nobody.uid), None).expect("given");
        let inside = as_nobody(&|| refusal_as_state(directory.path(), None)).expect("a file in it is root's");
        assert!(inside.contains("ca.pem belongs to root"), "{inside}");
        assert_eq!(read(), None, "the rest of this process is who it was");
        assert!(refusal(&directory.path().join("no"), Want::Read).expect("missing").contains("does not exist"));
    }
}
