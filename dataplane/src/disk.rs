//! Files we keep: whole or not at all.
//!
//! In: a directory, names in it, and content. Out: the content, or an error that names the path. A file appears, changes and
//! goes in one step, whatever happens in between; what a crash leaves is an unnamed draft that [`Directory::sweep`] removes.
//! A name is one path component, so nothing that comes from outside leads out of the directory.

use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;
use tempfile::{Builder, NamedTempFile};

/// First letters of the name of a file that is not finished.
const DRAFT: &str = ".draft-";

/// Files that are written to where they are must be here: a symbolic link could lead to anybody's.
const NO_LINK: i32 = OFlag::O_NOFOLLOW.bits();

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name would lead out of the directory, or to nothing in it.
    #[error("{name:?} is not a file name")]
    Name {
        /// The name.
        name: String,
    },
    /// The system said no.
    #[error("{step} {path}")]
    System {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Name { .. } => None,
            Self::System { source, .. } => Some(source.kind()),
        }
    }

    /// Says whether the file or the directory is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind() == Some(io::ErrorKind::NotFound)
    }

    /// Says whether there is a file of that name already.
    pub fn is_exists(&self) -> bool {
        self.kind() == Some(io::ErrorKind::AlreadyExists)
    }
}

/// Whether what is written is still there after a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// It need not be: `/run` is in memory.
    Volatile,
    /// It is: the file and its directory are synced.
    Durable,
}

/// A directory of files we keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    path: PathBuf,
    durability: Durability,
    /// Permissions of new files.
    mode: u32,
}

/// Content that is written but has no name yet. It goes with this value unless it gets one.
#[derive(Debug)]
pub struct Draft {
    file: NamedTempFile,
}

/// Held while no other process may hold it; the kernel frees it with the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Directory {
    /// Names a directory, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>, durability: Durability) -> Self {
        Self { path: path.into(), durability, mode: 0o644 }
    }

    /// The same, but what is written from now on is for its owner alone to read.
    #[must_use]
    pub fn for_owner_only(self) -> Self {
        Self { mode: 0o600, ..self }
    }

    /// Makes the directory, and those above it, where they are missing.
    pub fn make(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.path).map_err(self.failed("make directory"))
    }

    /// Names a directory in this one.
    pub fn directory(&self, name: &str) -> Result<Self, Error> {
        Ok(Self { path: self.path_of(name)?, ..*self })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file; nothing if there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path_of(name)?;
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::System { step: "read", path, source }),
        }
    }

    /// Gives a file this content, whether there is one or not. Readers see the old content or the new.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        self.put(self.draft(content)?, name)
    }

    /// The same, with content that comes in pieces and is never in memory as a whole. Returns how long the file is. Where a piece is an error,
    /// the file stays as it was.
    pub fn replace_by_pieces<E: From<Error>>(
        &self,
        name: &str,
        pieces: impl IntoIterator<Item = Result<Vec<u8>, E>>,
    ) -> Result<usize, E> {
        let failed = |source: io::Error| E::from(self.failed("write a file in")(source));
        let mut file = BufWriter::new(self.empty(self.mode).map_err(failed)?);
        let mut length = 0;
        for piece in pieces {
            let piece = piece?;
            file.write_all(&piece).map_err(failed)?;
            length += piece.len();
        }
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        if self.durability == Durability::Durable {
            file.as_file().sync_all().map_err(failed)?;
        }
        self.put(Draft { file }, name)?;
        Ok(length)
    }

    /// Gives a program this content, whether there is one or not. Processes that run the old one go on; whoever starts it gets the old one or the new.
    pub fn replace_program(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path_of(name)?;
        // Closed before it has its name: nobody can start a file that is open for writing (ETXTBSY, execve(2)).
        let closed = self.written(content, 0o755)?.into_temp_path();
        closed.persist(&path).map_err(|e| Error::System { step: "replace", path, source: e.error })?;
        self.sync()
    }

    /// Makes a file with this content, unless there is one ([`Error::is_exists`]). Of many that try at once, one succeeds.
    pub fn create_exclusively(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        self.link(&self.draft(content)?, name)
    }

    /// Writes content that has no name yet.
    pub fn draft(&self, content: &[u8]) -> Result<Draft, Error> {
        Ok(Draft { file: self.written(content, self.mode)? })
    }

    fn written(&self, content: &[u8], mode: u32) -> Result<NamedTempFile, Error> {
        let write = || -> io::Result<NamedTempFile> {
            let mut file = self.empty(mode)?;
            file.write_all(content)?;
            if self.durability == Durability::Durable {
                file.as_file().sync_all()?;
            }
            Ok(file)
        };
        write().map_err(self.failed("write a file in"))
    }

    fn empty(&self, mode: u32) -> io::Result<NamedTempFile> {
        let permissions = fs::Permissions::from_mode(mode);
        Builder::new().prefix(DRAFT).permissions(permissions).tempfile_in(&self.path)
    }

    /// Gives a draft a name here, unless the name is taken ([`Error::is_exists`]). It can be given several.
    pub fn link(&self, draft: &Draft, name: &str) -> Result<(), Error> {
        let path = self.path_of(name)?;
        fs::hard_link(draft.file.path(), &path).map_err(|source| Error::System {
            step: "create",
            path,
            source,
        })?;
        self.sync()
    }

    /// Gives a draft its last name here, in the place of what had it.
    pub fn put(&self, draft: Draft, name: &str) -> Result<(), Error> {
        let path = self.path_of(name)?;
        draft.file.persist(&path).map_err(|e| Error::System { step: "replace", path, source: e.error })?;
        self.sync()
    }

    /// Adds to the end of a file, which is made if there is none, and returns how long the file is then. Of what several add at
    /// once, nothing is lost and nothing mixed; a full disk may keep the end of it off.
    pub fn append(&self, name: &str, content: &[u8]) -> Result<u64, Error> {
        let path = self.path_of(name)?;
        let append = || -> io::Result<u64> {
            let mut file = File::options().create(true).append(true).custom_flags(NO_LINK).open(&path)?;
            file.write_all(content)?;
            if self.durability == Durability::Durable {
                file.sync_all()?;
            }
            Ok(file.metadata()?.len())
        };
        append().map_err(|source| Error::System { step: "append to", path, source })
    }

    /// Reads the end of a file, as many bytes as `most`; nothing if there is none.
    pub fn tail(&self, name: &str, most: u64) -> Result<Vec<u8>, Error> {
        let path = self.path_of(name)?;
        let read = || -> io::Result<Vec<u8>> {
            let mut file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                opened => opened?,
            };
            let length = file.metadata()?.len();
            file.seek(io::SeekFrom::Start(length.saturating_sub(most)))?;
            let mut content = Vec::new();
            file.take(most).read_to_end(&mut content)?;
            Ok(content)
        };
        read().map_err(|source| Error::System { step: "read", path, source })
    }

    /// Removes a file and says whether there was one.
    pub fn remove(&self, name: &str) -> Result<bool, Error> {
        let path = self.path_of(name)?;
        match fs::remove_file(&path) {
            Ok(()) => self.sync().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::System { step: "remove", path, source }),
        }
    }

    /// Lists the names in the directory, in order; none if there is no directory.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if is_no_directory(&error) => return Ok(Vec::new()),
            Err(source) => return Err(self.failed("list")(source)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(self.failed("list"))?.file_name();
            names.extend(name.to_str().filter(|name| !name.starts_with(DRAFT)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Tells two files from each other, whatever their names: nothing if there is no such file.
    pub fn inode(&self, name: &str) -> Result<Option<u64>, Error> {
        let path = self.path_of(name)?;
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::System { step: "look at", path, source }),
        }
    }

    /// Removes the drafts of those who did not live to finish them. Call it only when nobody is writing here.
    pub fn sweep(&self) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if is_no_directory(&error) => return Ok(()),
            Err(source) => return Err(self.failed("list")(source)),
        };
        for entry in entries {
            let entry = entry.map_err(self.failed("list"))?;
            if is_draft(&entry.file_name()) {
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| Error::System { step: "remove", path, source })?;
            }
        }
        Ok(())
    }

    /// Waits until no other process holds the lock of that name, and holds it.
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        let (path, file) = self.open_lock(name)?;
        file.lock().map_err(|source| Error::System { step: "lock", path, source })?;
        Ok(Lock { _file: file })
    }

    /// Holds the lock of that name, unless another process does.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lock>, Error> {
        let (path, file) = self.open_lock(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::System { step: "lock", path, source }),
        }
    }

    fn open_lock(&self, name: &str) -> Result<(PathBuf, File), Error> {
        let path = self.path_of(name)?;
        let open = File::options().create(true).truncate(false).write(true).custom_flags(NO_LINK).open(&path);
        match open {
            Ok(file) => Ok((path, file)),
            Err(source) => Err(Error::System { step: "lock", path, source }),
        }
    }

    fn path_of(&self, name: &str) -> Result<PathBuf, Error> {
        let is_one_component = Path::new(name).file_name() == Some(OsStr::new(name)) && !name.contains('\0');
        if is_one_component && !name.starts_with(DRAFT) {
            Ok(self.path.join(name))
        } else {
            Err(Error::Name { name: name.to_owned() })
        }
    }

    fn sync(&self) -> Result<(), Error> {
        match self.durability {
            Durability::Volatile => Ok(()),
            Durability::Durable => {
                File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(self.failed("sync"))
            }
        }
    }

    fn failed(&self, step: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::System { step, path: self.path.clone(), source }
    }
}

/// Says whether there is nothing to list: nothing at all, or a file.
fn is_no_directory(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_draft(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(DRAFT))
}

#[cfg(test)]
mod tests;
