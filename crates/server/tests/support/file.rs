//! A file that a test writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

/// It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct ConfigFile(PathBuf);

impl ConfigFile {
    pub(crate) fn new(text: &str) -> ConfigFile {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("fanfare-{}-{}.toml", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let file = ConfigFile(env::temp_dir().join(name));
        file.write(text);
        file
    }

    /// Replaces it as a whole, as editors and configuration management do.
    pub(crate) fn write(&self, text: &str) {
        let fresh = self.0.with_extension("new");
        fs::write(&fresh, text).expect("the folder for temporary files takes it");
        fs::rename(&fresh, &self.0).expect("both are in one folder");
    }

    pub(crate) fn remove(&self) {
        fs::remove_file(&self.0).expect("it is there");
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn name(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        // What a server has locked beside it.
        let _ = fs::remove_file(format!("{}.lock", self.name()));
    }
}
