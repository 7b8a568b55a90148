//! A directory for another user's service, made and given away by its open file: whoever may write beside it can put
//! something else in its place at any time, and gets nothing by it.

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, fchown};
use std::path::Path;

pub(super) struct NewDirectory(File);

impl NewDirectory {
    /// Nothing may be there yet.
    ///
    /// # Errors
    /// The system's.
    pub fn make(path: &Path) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(path)?;
        Self::open(path)
    }

    /// What is at the path, as it was made: a symbolic link is none, and another directory was there before.
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = File::from(openat(CWD, path, flags, Mode::empty())?);
        let found = opened.metadata()?;
        let own = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
        let empty =
            Dir::read_from(&opened)?.all(|entry| entry.is_ok_and(|entry| [c".", c".."].contains(&entry.file_name())));
        match own && empty {
            true => Ok(Self(opened)),
            false => Err(io::Error::other("another directory was put in its place")),
        }
    }

    /// A file in it that nobody else reads.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, name: &OsStr, text: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(text.as_bytes())?;
        Ok(file)
    }

    /// Gives these files of it away, and the directory last: until then they are as they were written.
    ///
    /// # Errors
    /// The system's.
    pub fn give(&self, files: &[File], uid: u32, gid: u32) -> io::Result<()> {
        files.iter().chain([&self.0]).try_for_each(|file| fchown(file, Some(uid), Some(gid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, read_dir, rename, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_put_in_its_place_is_neither_written_to_nor_given_away() {
        let home = tempfile::tempdir().expect("a directory");
        let [made, moved, foreign] = ["made", "moved", "foreign"].map(|name| home.path().join(name));
        create_dir(&foreign).expect("made");
        let directory = NewDirectory::make(&made).expect("made");
        assert!(NewDirectory::make(&made).is_err(), "it is there");
        rename(&made, &moved).expect("moved");
        symlink(&foreign, &made).expect("linked");
        let file = directory.write("file".as_ref(), "text").expect("written");
        assert!(directory.write("file".as_ref(), "text").is_err(), "it is there");
        assert_eq!(std::fs::read_to_string(moved.join("file")).expect("there"), "text");
        assert_eq!(read_dir(&foreign).expect("read").count(), 0);
        // Only root can give it to somebody else.
        let root = rustix::process::geteuid().is_root();
        let made = file.metadata().expect("read");
        let (uid, gid) = if root { (4321, 4321) } else { (made.uid(), made.gid()) };
        directory.give(&[file], uid, gid).expect("given");
        let owner = |path: &Path| path.metadata().expect("read").uid();
        assert_eq!([owner(&moved), owner(&moved.join("file"))], [uid, uid]);
        assert_eq!(owner(&foreign), made.uid());
    }

    #[test]
    fn what_is_there_already_is_not_taken_for_the_new_directory() {
        let home = tempfile::tempdir().expect("a directory");
        let [others, open, link] = ["others", "open", "link"].map(|name| home.path().join(name));
        DirBuilder::new().mode(0o700).create(&others).expect("made");
        assert!(NewDirectory::open(&others).is_ok(), "nothing tells it from the new one");
        symlink(&others, &link).expect("linked");
        assert!(NewDirectory::open(&link).is_err());
        write(others.join("file"), "text").expect("written");
        assert!(NewDirectory::open(&others).is_err());
        DirBuilder::new().mode(0o755).create(&open).expect("made");
        assert!(NewDirectory::open(&open).is_err());
    }
}
