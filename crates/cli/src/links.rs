//! Follows the links of a plan file, so that the engine gets all documents at once.
//!
//! **Invariant:** no link leaves the folder of the plan file, by `..`, by `file://` or by a symbolic link, and none goes to
//! the network. A link that can not be followed becomes a problem of the plan, with its place.

use std::path::{Path, PathBuf};

use crewline_engine::plan::{Sources, links};
use serde_json::Value;

use crate::{
    document::{parse_value, read_file},
    error::Error,
};

/// Documents that one plan file may link to, all together.
const DOCUMENTS_MAX: usize = 1_000;

/// The documents below `value`, which `path` holds, and the name of the first.
pub(crate) fn follow(path: &Path, value: Value) -> Result<(String, Sources), Error> {
    // What comes from stdin may link from where the command runs.
    let file = path.canonicalize().ok().filter(|it| it.is_file());
    let folder = file.as_deref().and_then(Path::parent).map(Path::to_owned);
    let root = folder.or_else(|| Path::new(".").canonicalize().ok()).unwrap_or_default();
    let entry = file.as_deref().map_or_else(|| "-".to_owned(), |it| name(&root, it));
    let mut sources = Sources::default();
    let mut open = vec![(entry.clone(), file.unwrap_or_else(|| root.join("-")))];
    sources.documents.insert(entry.clone(), value);
    while let Some((document, path)) = open.pop() {
        let found: Vec<String> =
            sources.documents.get(&document).map(links).unwrap_or_default().into_iter().map(str::to_owned).collect();
        for link in found {
            let target = resolve(&root, &path, &link);
            if let Ok(path) = &target {
                let name = name(&root, path);
                if !sources.documents.contains_key(&name) && sources.documents.len() < DOCUMENTS_MAX {
                    sources.documents.insert(name.clone(), parse_value(&name, &read_file(path)?)?);
                    open.push((name, path.clone()));
                }
            }
            sources.links.insert((document.clone(), link), target.map(|path| name(&root, &path)));
        }
    }
    Ok((entry, sources))
}

fn name(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// The file behind a link, or why there is none.
fn resolve(root: &Path, from: &Path, link: &str) -> Result<PathBuf, String> {
    let path = match link.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err("names another machine; a `file://` address is followed by an absolute path".to_owned());
            }
            PathBuf::from(decoded(path)?)
        }
        Some(_) => return Err("is not followed: a link is a relative path or a `file://` address".to_owned()),
        None if Path::new(link).is_absolute() => {
            return Err("is absolute: a link is a relative path or a `file://` address".to_owned());
        }
        None => from.parent().unwrap_or(root).join(link),
    };
    // Nothing is told of what lies outside, not even whether it is there.
    let outside = || format!("leads out of the folder of the plan (`{}`)", root.display());
    let real = match path.canonicalize() {
        Ok(real) if real.starts_with(root) => real,
        Ok(_) => return Err(outside()),
        Err(_) if !normal(&path).starts_with(root) => return Err(outside()),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    if real.is_file() { Ok(real) } else { Err("is no file".to_owned()) }
}

/// The path without `.` and `..`, by its words alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => _ = normal.pop(),
            std::path::Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// The text with `%20` and the like as they are meant.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|it| std::str::from_utf8(it).ok());
        let Some(byte) = digits.and_then(|it| u8::from_str_radix(it, 16).ok()) else {
            return Err("has a `%` without two hexadecimal digits".to_owned());
        };
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let dir = std::env::temp_dir().join(format!("crewline-links-{}", std::process::id()));
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("parts")).unwrap();
        let (dir, root) = (dir.canonicalize().unwrap(), root.canonicalize().unwrap());
        std::fs::write(root.join("parts/a b.yaml"), "tasks: []").unwrap();
        std::fs::write(dir.join("secret.yaml"), "tasks: []").unwrap();
        std::os::unix::fs::symlink(dir.join("secret.yaml"), root.join("parts/link.yaml")).unwrap();
        let from = root.join("parts/main.yaml");
        let inside = root.join("parts/a b.yaml");
        for link in ["a b.yaml", "../parts/a b.yaml", &format!("file://{}/parts/a%20b.yaml", root.display())] {
            assert_eq!(resolve(&root, &from, link), Ok(inside.clone()), "{link}");
        }
        for (link, reason) in [
            ("../../secret.yaml", "leads out"),
            ("../../not-there.yaml", "leads out"),
            ("link.yaml", "leads out"),
            ("file:///etc/passwd", "leads out"),
            ("file://host/x", "another machine"),
            ("file:///%zz", "hexadecimal"),
            ("https://example.com/x", "is not followed"),
            ("/etc/passwd", "is absolute"),
            ("gone.yaml", "cannot be read"),
            (".", "is no file"),
        ] {
            let found = resolve(&root, &from, link).unwrap_err();
            assert!(found.contains(reason), "{link}: {found}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
