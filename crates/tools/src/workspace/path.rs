//! A path inside a workspace, as a model may write it.
//!
//! **Invariant:** a [`FilePath`] is relative, has no `..`, and no part of it is `.git`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a path at most.
const PATH_BYTES_MAX: usize = 1024;
/// Bytes of a part of it at most; what file systems take.
const NAME_BYTES_MAX: usize = 255;

/// A path below a workspace's root: parts with `/` between them, none of which leads up. The root itself has no parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(String);

impl TryFrom<String> for FilePath {
    type Error = BadPath;

    fn try_from(text: String) -> Result<Self, BadPath> {
        Self::parse(&text)
    }
}

impl From<FilePath> for String {
    fn from(path: FilePath) -> Self {
        path.0
    }
}

/// Why a text is no path inside a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadPath {
    /// It begins at the root of the file system, or of a home.
    #[error("paths are relative to the workspace")]
    Absolute,
    /// It leads up.
    #[error("a path may not have `..` in it")]
    Upward,
    /// It is what git keeps.
    #[error("`.git` is not for tools that read and write files")]
    Git,
    /// It has characters that file names should not have.
    #[error("a path may not have control characters in it")]
    Control,
    /// It is too long.
    #[error("a path is at most 1,024 bytes long, each part of it 255")]
    TooLong,
}

impl FilePath {
    /// Reads a path. `.` and empty parts mean nothing, as in a shell.
    pub fn parse(text: &str) -> Result<Self, BadPath> {
        if text.len() > PATH_BYTES_MAX {
            return Err(BadPath::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(BadPath::Control);
        }
        if text.starts_with('/') || text == "~" || text.starts_with("~/") {
            return Err(BadPath::Absolute);
        }
        let mut path = String::with_capacity(text.len());
        for part in text.split('/').filter(|it| !matches!(*it, "" | ".")) {
            check_part(part)?;
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
        }
        Ok(Self(path))
    }

    /// The root.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// The same with one part more, as a directory lists it. `None` for what no tool may touch.
    pub(crate) fn join(&self, name: &str) -> Option<Self> {
        check_part(name).ok()?;
        let is_fine = !name.contains(['/']) && !name.chars().any(char::is_control);
        let path = if self.is_root() { name.to_owned() } else { format!("{}/{name}", self.0) };
        (is_fine && path.len() <= PATH_BYTES_MAX).then_some(Self(path))
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Where it is, and its own name; `None` of the root.
    pub(crate) fn split(&self) -> Option<(Self, &str)> {
        match self.0.rsplit_once('/') {
            Some((parent, name)) => Some((Self(parent.to_owned()), name)),
            None if self.is_root() => None,
            None => Some((Self::root(), &self.0)),
        }
    }

    /// Its parts from the root down.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|it| !it.is_empty())
    }

    /// The text; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_part(part: &str) -> Result<(), BadPath> {
    if part == ".." {
        return Err(BadPath::Upward);
    }
    // Some file systems ignore case, and some end a name at a dot or a blank.
    if part.trim_end_matches(['.', ' ']).eq_ignore_ascii_case(".git") {
        return Err(BadPath::Git);
    }
    if part.len() > NAME_BYTES_MAX { Err(BadPath::TooLong) } else { Ok(()) }
}

impl fmt::Display for FilePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.is_root() { "." } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_they_say() {
        for (text, expected) in [
            ("a", Ok("a")),
            ("./a//b/./c/", Ok("a/b/c")),
            ("", Ok("")),
            (".", Ok("")),
            ("a..b/...", Ok("a..b/...")),
            (".gitignore", Ok(".gitignore")),
            ("/etc/passwd", Err(BadPath::Absolute)),
            ("~/x", Err(BadPath::Absolute)),
            ("..", Err(BadPath::Upward)),
            ("a/../b", Err(BadPath::Upward)),
            ("a/b/..", Err(BadPath::Upward)),
            (".git/config", Err(BadPath::Git)),
            ("a/.GIT/hooks/x", Err(BadPath::Git)),
            (".git./x", Err(BadPath::Git)),
            ("a\0b", Err(BadPath::Control)),
            ("a\nb", Err(BadPath::Control)),
        ] {
            assert_eq!(
                FilePath::parse(text).as_ref().map(FilePath::as_str),
                expected.as_ref().map(|it| *it),
                "{text:?}"
            );
        }
        assert_eq!(FilePath::parse(&"a".repeat(256)), Err(BadPath::TooLong));
        assert_eq!(FilePath::parse(&"a/".repeat(600)), Err(BadPath::TooLong));
    }

    #[test]
    fn a_path_knows_its_place() {
        let path = FilePath::parse("a/b/c").unwrap();
        assert_eq!(path.split(), Some((FilePath::parse("a/b").unwrap(), "c")));
        assert_eq!(path.parts().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(FilePath::root().split(), None);
        assert_eq!(FilePath::root().join("x").unwrap().as_str(), "x");
        assert_eq!(FilePath::root().join(".git"), None);
        assert_eq!(path.join(".."), None);
    }
}
